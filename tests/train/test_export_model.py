"""The model folder that training leaves behind: complete, readable, and swapped in whole."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_dataset import write_tables
from small_shop import LOOKS, SmallShop, make_shop, small_recipe
from tiny_bert import write_tiny_bert
from transformers import AutoConfig, AutoTokenizer

from clm_ray.config.model import EncoderConfig, LoraConfig
from clm_ray.errors import ReleaseError
from clm_ray.model.files import TABLES, Description, ModelFolder
from clm_ray.model.inference import Scorer, UserRequest
from clm_ray.model.recommender import Recommender
from clm_ray.model.text import TextTower, load_pretrained, tokenize
from clm_ray.train.export import export_model, item_vectors
from clm_ray.train.setup import Assembled, Prepared


@pytest.fixture(scope="module")
def shop() -> SmallShop:
    return make_shop()


@pytest.fixture
def parts(shop: SmallShop, tmp_path: Path) -> tuple[Assembled, Prepared]:
    encoder, tokenizer = load_pretrained(EncoderConfig(name=str(write_tiny_bert(tmp_path / "bert", LOOKS))))
    model = shop.model(TextTower(encoder, trained_layers=1, pooling="mean"))
    description = Description(model.network.sizes, shop.users)
    dataset = tmp_path / "dataset"
    write_tables(dataset, shop)
    (dataset / "recipe.yaml").write_text("not the one that counts")
    prepared = Prepared(
        dataset, shop.recipe, {"id": "d1"}, shop.spec, shop.items, shop.events_I, shop.users, shop.columns
    )
    return Assembled(model, description, None, encoder.config, tokenizer), prepared


def _export(folder: Path, assembled: Assembled, prepared: Prepared, **changes: Any) -> None:
    given = {
        "state": dict(assembled.model.state_dict()),
        "vectors": item_vectors(assembled, prepared, assembled.model.cache_ZH),
        "frozen": np.zeros((len(prepared.items.texts), 3), np.float32),
        "history": {"epochs": [], "git": "abc", "dataset": "d1"},
    }
    export_model(folder, assembled=assembled, prepared=prepared, **{**given, **changes})


def test_what_is_exported_can_be_opened_and_scores_as_the_trained_model(
    shop: SmallShop, parts: tuple[Assembled, Prepared], tmp_path: Path
) -> None:
    assembled, prepared = parts
    _export(tmp_path / "model", *parts)
    opened = ModelFolder.open(tmp_path / "model")
    for name, tensor in opened.network().state_dict().items():
        assert torch.equal(tensor, assembled.model.network.state_dict()[name]), name
    assert opened.recipe() == shop.recipe
    assert opened.description() == assembled.description
    request = UserRequest("u1", shop.histories["u1"], shop.train_end)
    mine = Scorer(
        recipe=shop.recipe,
        network=assembled.model.network,
        item_ID=item_vectors(assembled, prepared, assembled.model.cache_ZH),
        source=shop.source,
        spec=shop.spec,
        users=shop.users,
        columns=shop.columns,
    )
    rows = np.arange(1, 9, dtype=np.int32)
    found = [s.click(s.states([request]), [rows])[0] for s in (mine, Scorer.open(tmp_path / "model"))]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert AutoConfig.from_pretrained(tmp_path / "model" / "encoder").hidden_size == 16
    assert AutoTokenizer.from_pretrained(tmp_path / "model" / "encoder").tokenize("red old") == ["red", "old"]


@pytest.mark.parametrize(("pooling", "lora"), [("mean", None), ("attention", LoraConfig(rank=2))])
def test_the_exported_text_tower_encodes_as_the_trained_one_and_needs_no_adapters(
    shop: SmallShop,
    parts: tuple[Assembled, Prepared],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pooling: str,
    lora: LoraConfig | None,
) -> None:
    assembled, prepared = parts
    encoder, _ = load_pretrained(EncoderConfig(name=str(tmp_path / "bert")))
    tower = TextTower(encoder, trained_layers=1, pooling=pooling, lora=lora).eval()
    for parameter in tower.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    keys = {"pooling": pooling, "trained_layers": 1, "lora": lora and lora.model_dump()}
    prepared = replace(prepared, recipe=small_recipe(model={"encoder": keys}))
    model = Recommender(assembled.model.network, tower)
    model.cache_ZH = assembled.model.cache_ZH
    _export(tmp_path / "model", replace(assembled, model=model), prepared)
    monkeypatch.setitem(sys.modules, "peft", None)
    opened, tokenizer = ModelFolder.open(tmp_path / "model").text_tower()
    texts = tokenize(shop.items.texts, tokenizer, max_tokens=8).padded(np.arange(len(shop.items.texts)))
    with torch.no_grad():
        torch.testing.assert_close(opened(*texts), tower(*texts), atol=1e-4, rtol=0)


def test_item_vectors_are_those_of_use_not_of_training(parts: tuple[Assembled, Prepared]) -> None:
    assembled, prepared = parts
    network = assembled.model.network
    network.config = network.config.model_copy(update={"id_dropout": 0.9})
    network.train()
    vectors = item_vectors(assembled, prepared, assembled.model.cache_ZH)
    assert network.training
    rows = np.arange(len(prepared.items.catalogue))
    with torch.no_grad():
        inputs = prepared.items.inputs(rows, prepared.items.text_I)
        expected = network.eval().item_vectors(assembled.model.cache_ZH, inputs)
    np.testing.assert_allclose(vectors, expected.numpy(), atol=1e-6)
    assert vectors.dtype == np.float32


def test_a_better_model_takes_the_place_of_the_old_one_without_leftovers(
    parts: tuple[Assembled, Prepared], tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "model"
    _export(folder, *parts)
    (folder / "of_the_old_one").write_text("")
    _export(folder, *parts, history={"epochs": [{"epoch": 2}], "git": "abc", "dataset": "d1"})
    assert json.loads((folder / "training.json").read_text())["epochs"] == [{"epoch": 2}]
    assert not (folder / "of_the_old_one").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("table", TABLES[:-1])
def test_an_export_that_fails_leaves_the_old_model_whole(
    parts: tuple[Assembled, Prepared], tmp_path: Path, table: str
) -> None:
    _, prepared = parts
    folder = tmp_path / "run" / "model"
    _export(folder, *parts)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    (prepared.dataset / table).unlink()
    with pytest.raises(FileNotFoundError):
        _export(folder, *parts)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    ModelFolder.open(folder)


def test_a_model_without_texts_needs_no_encoder(parts: tuple[Assembled, Prepared], tmp_path: Path) -> None:
    assembled, prepared = parts
    _export(tmp_path / "model", replace(assembled, encoder_config=None, tokenizer=None), prepared)
    assert not (tmp_path / "model" / "encoder").exists()
    with pytest.raises(ReleaseError, match="no text tower"):
        ModelFolder.open(tmp_path / "model").text_tower()


@pytest.mark.parametrize("name", ["model.safetensors", "item_vectors.npy", "items.parquet", "features.json"])
def test_an_incomplete_model_folder_is_refused_by_name(
    parts: tuple[Assembled, Prepared], tmp_path: Path, name: str
) -> None:
    _export(tmp_path / "model", *parts)
    (tmp_path / "model" / name).unlink()
    with pytest.raises(ReleaseError, match=name):
        ModelFolder.open(tmp_path / "model")


def test_weights_of_another_network_are_refused(parts: tuple[Assembled, Prepared], tmp_path: Path) -> None:
    """As after an update that changed the network, with the release of before it still published."""
    _export(tmp_path / "model", *parts)
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    weights["network.retention.0.weight"] = weights.pop("network.retention.weight")
    save_file(weights, path)
    with pytest.raises(ReleaseError, match="not those of the network") as refused:
        ModelFolder.open(tmp_path / "model").network()
    assert "publish again" in str(refused.value)
