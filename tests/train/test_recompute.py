"""Blocks and encoder layers that are computed again in the backward pass: really again, and with the same gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_shop import LOOKS, lower_of, make_shop
from tiny_bert import write_tiny_bert
from torch import nn

from clm_ray.config.model import EncoderConfig
from clm_ray.model.text import TextTower, load_pretrained, tokenize


@pytest.mark.parametrize("recompute", [False, True])
def test_recomputed_layers_run_twice_and_give_the_same_gradient(tmp_path: Path, recompute: bool) -> None:
    shop = make_shop()
    encoder, tokenizer = load_pretrained(EncoderConfig(name=str(write_tiny_bert(tmp_path / "bert", LOOKS))))
    tower = TextTower(encoder, trained_layers=1, pooling="mean")
    model = shop.model(tower).train()
    maker = shop.maker(lower_of(tower, tokenize(shop.items.texts, tokenizer, max_tokens=8)))
    batch = maker.make(shop.batch_windows(0, 8), rank=0, world=1, step=0, epoch=0, train=True)
    model(batch)[0].backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    calls = {"block": 0, "layer": 0}
    parts: dict[str, nn.Module] = {"block": model.network.blocks[0], "layer": tower.upper[0]}
    for name, part in parts.items():
        part.register_forward_pre_hook(lambda *_, n=name: calls.__setitem__(n, calls[n] + 1))
    model.network.recompute = tower.recompute = recompute
    model(batch)[0].backward()
    assert calls == dict.fromkeys(parts, 2 if recompute else 1)
    for name, gradient in expected.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, gradient)
    with torch.no_grad():
        model(batch)
    assert calls == dict.fromkeys(parts, 3 if recompute else 2), "without gradient nothing is computed twice"
