"""The tiny release with a text tower: what serving needs to encode items that are put."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tiny_bert import HIDDEN, write_tiny_bert
from tiny_release import ITEM_IDS, write_release

from clm_ray.config.workspace import Workspace
from clm_ray.model.files import ENCODER, ITEM_VECTORS, ModelFolder, save_weights
from clm_ray.model.items import ItemTable, bucket_slot
from clm_ray.model.network import Network
from clm_ray.model.text import TextTower, tokenize


def write_text_release(workspace: Workspace, name: str, *, seed: int) -> Path:
    """`write_release`, its item vectors made of texts by a tiny BERT, as training makes them."""
    from transformers import AutoModel, AutoTokenizer

    folder = write_release(workspace, name, seed=seed)
    files = ModelFolder.open(folder)
    recipe, description = files.recipe(), files.description()
    bert = write_tiny_bert(folder / ENCODER, [f"text of {item}" for item in ITEM_IDS], seed=seed)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    config = recipe.model.encoder
    tower = TextTower(
        AutoModel.from_pretrained(bert), trained_layers=config.trained_layers, pooling=config.pooling
    ).eval()
    sizes = replace(description.sizes, text_width=HIDDEN, id_slots=recipe.model.id_buckets + 1)
    torch.manual_seed(seed)
    network = Network(sizes, recipe.model).eval()
    state = {f"network.{n}": t for n, t in network.state_dict().items()} | {
        f"tower.{n}": t for n, t in tower.state_dict().items()
    }
    save_weights(folder, state, replace(description, sizes=sizes))
    (folder / ENCODER / "model.safetensors").unlink()
    slot_I = np.array([0, *(bucket_slot(i, recipe.model.id_buckets) for i in ITEM_IDS[1:])], np.int32)
    np.save(folder / "item_slot.npy", slot_I)
    items = ItemTable.build(files.catalogue(), slot_I)
    tokens = tokenize(items.texts, tokenizer, max_tokens=config.max_tokens)
    with torch.no_grad():
        texts = torch.cat([tower(*tokens.padded(np.array([n]))) for n in range(len(items.texts))])
        rows = np.arange(len(ITEM_IDS))
        vectors = network.item_vectors(texts, items.inputs(rows, items.text_I[rows]))
    np.save(folder / ITEM_VECTORS, vectors.numpy().astype(np.float32))
    return folder
