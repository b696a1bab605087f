"""Write the model folder from a trained model: weights, encoder, item vectors, the dataset's tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clm_ray.model.factors import Factors
from clm_ray.model.files import ENCODER, ITEM_VECTORS, TABLES, save_weights
from clm_ray.train.setup import Assembled, Prepared

_ITEMS_PER_PASS = 8192


@torch.no_grad()
def item_vectors(assembled: Assembled, prepared: Prepared, text_ZH: torch.Tensor) -> NDArray[np.float32]:
    """x [I, D] of the whole catalogue."""
    network = assembled.model.network
    training = network.training
    network.eval()
    out = []
    for first in range(0, len(prepared.items.catalogue), _ITEMS_PER_PASS):
        rows = np.arange(first, min(first + _ITEMS_PER_PASS, len(prepared.items.catalogue)))
        inputs = prepared.items.inputs(rows, prepared.items.text_I[rows])
        moved = type(inputs)(*(getattr(inputs, n).to(text_ZH.device) for n in inputs.__dataclass_fields__))
        out.append(network.item_vectors(text_ZH, moved).float().cpu().numpy())
    network.train(training)
    return np.concatenate(out)


def export_model(
    folder: Path,
    *,
    assembled: Assembled,
    prepared: Prepared,
    state: dict[str, torch.Tensor],
    vectors: NDArray[np.float32],
    frozen: NDArray[np.float32],
    history: dict[str, Any],
    factors: Factors | None = None,
) -> None:
    """Write to a hidden folder, then swap it in: a reader never sees half a model."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tower = assembled.model.tower
    save_weights(fresh, tower.plain_state(state, prefix="tower.") if tower else state, assembled.description)
    np.save(fresh / ITEM_VECTORS, vectors)
    np.save(fresh / "item_text.npy", prepared.items.text_I)
    np.save(fresh / "item_slot.npy", prepared.items.slot_I)
    np.save(fresh / "frozen_text_vectors.npy", frozen)
    if factors is not None:
        factors.save(fresh)
    if assembled.tokenizer is not None:
        assembled.encoder_config.save_pretrained(fresh / ENCODER)
        assembled.tokenizer.save_pretrained(fresh / ENCODER)
    for name in TABLES:
        shutil.copyfile(prepared.dataset / name, fresh / name)
    (fresh / "features.json").write_text(json.dumps(prepared.spec.to_dict(), indent=1), encoding="utf-8")
    (fresh / "recipe.yaml").write_text(prepared.recipe.to_yaml(), encoding="utf-8")
    (fresh / "training.json").write_text(json.dumps(history, indent=1), encoding="utf-8")
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
