"""Low-rank adapters: what they train, where they sit, and what is left of them when they are merged."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_encoders import FAMILIES, LAYERS, POOLING, random_tokens, tiny_encoder

from clm_ray.config.model import EncoderConfig, LoraConfig
from clm_ray.errors import ConfigError
from clm_ray.model.lora import adapters
from clm_ray.model.text import TextTower

IDS, MASK = random_tokens([4, 1, 9, 2]).padded(np.arange(4))
TRAINED = 2


def _tower(kind: str, lora: LoraConfig | None = LoraConfig(rank=2, alpha=6.0)) -> TextTower:
    return TextTower(tiny_encoder(kind), trained_layers=TRAINED, pooling=POOLING[kind], lora=lora).eval()


def _moved(tower: TextTower) -> TextTower:
    """The tower with random adapters, as if trained."""
    torch.manual_seed(1)
    for parameter in tower.new_parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return tower


@pytest.mark.parametrize("kind", FAMILIES)
def test_adapters_alone_are_trained_and_begin_without_an_effect(kind: str) -> None:
    tower, plain = _tower(kind), _tower(kind, None)
    torch.testing.assert_close(tower(IDS, MASK), plain(IDS, MASK), atol=0, rtol=0)
    trained = {n: p for n, p in tower.named_parameters() if p.requires_grad}
    assert {n.split(".")[0] for n in trained} == {"upper"}
    assert {n.split(".")[1] for n in trained} == {str(n) for n in range(TRAINED)}
    assert all("lora_A" in n or "lora_B" in n for n in trained)
    assert [id(p) for p in trained.values()] == [id(p) for p in tower.new_parameters()]
    assert len(adapters(tower.upper)) >= TRAINED
    assert not adapters(tower.lower)
    assert len(tower.lower) == LAYERS - TRAINED
    _moved(tower)(IDS, MASK).square().sum().backward()
    for name, parameter in tower.named_parameters():
        has = parameter.grad is not None and bool((parameter.grad != 0).any())
        assert has == (name in trained), name


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_merged_state_is_that_of_a_plain_tower_with_the_same_vectors(kind: str) -> None:
    tower, plain = (t.requires_grad_(False) for t in (_moved(_tower(kind)), _tower(kind, None)))
    before = plain(IDS, MASK)
    state = {f"tower.{n}": t for n, t in tower.state_dict().items()} | {"network.x": torch.ones(1)}
    merged = tower.plain_state(state, prefix="tower.")
    assert merged.pop("network.x") is state["network.x"]
    plain.load_state_dict({n.removeprefix("tower."): t for n, t in merged.items()})
    found, expected = plain(IDS, MASK), tower(IDS, MASK)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert float((found - before).abs().max()) > 0.05, "adapters that change nothing would prove nothing"


def test_a_tower_without_adapters_is_exported_as_it_is() -> None:
    tower = _tower("bert", None)
    state = dict(tower.state_dict(prefix="tower."))
    assert tower.plain_state(state, prefix="tower.") == state


def test_rank_scale_and_targets_are_those_of_the_recipe() -> None:
    tower = _tower("bert", LoraConfig(rank=3, alpha=12.0, targets=("intermediate.dense",)))
    found = adapters(tower.upper)
    assert set(found) == {f"{n}.intermediate.dense" for n in range(TRAINED)}
    assert all(m.scaling["default"] == 4.0 and m.lora_A["default"].weight.shape[0] == 3 for m in found.values())


def test_a_target_that_no_layer_has_is_an_error_with_a_way_out() -> None:
    with pytest.raises(ConfigError) as caught:
        _tower("bert", LoraConfig(targets=("c_attn",)))
    assert (caught.value.field, caught.value.value) == ("model.encoder.lora.targets", ["c_attn"])
    assert "leave targets out" in caught.value.fix


def test_without_peft_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match="peft") as caught:
        _tower("bert")
    assert caught.value.field == "model.encoder.lora"
    assert "pip install" in caught.value.fix
    _tower("bert", None)


@pytest.mark.parametrize("keys", [{"trained_layers": 0}, {"lora": {"dropout": 0.1}}, {"lora": {"rank": 0}}])
def test_adapters_that_would_do_nothing_are_refused(keys: dict[str, Any]) -> None:
    EncoderConfig(**{"lora": {}, "trained_layers": 1})  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        EncoderConfig(**{"lora": {}, **keys})
