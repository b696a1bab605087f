"""Cached lower states and refreshed text vectors are what the encoder says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_shop import LOOKS, make_shop
from tiny_bert import write_tiny_bert

from clm_ray.config.model import EncoderConfig
from clm_ray.model.text import TextTower, Tokens, load_pretrained, tokenize
from clm_ray.train.texts import TEXTS_PER_PASS, lower_states, text_vectors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tower_and_tokens(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextTower, Tokens]:
    config = EncoderConfig(name=str(write_tiny_bert(tmp_path_factory.mktemp("bert"), LOOKS)))
    encoder, tokenizer = load_pretrained(config)
    texts = [f"{text} {' '.join(LOOKS[: n % 3])}" for n, text in enumerate(make_shop().items.texts * 9)]
    assert len(texts) > 64, "more than one pass"
    return TextTower(encoder, trained_layers=1, pooling="mean").eval(), tokenize(texts, tokenizer, max_tokens=12)


def test_cached_states_stand_for_the_frozen_layers(tower_and_tokens: tuple[TextTower, Tokens]) -> None:
    tower, tokens = tower_and_tokens
    lower = lower_states(tower, tokens, rank=0, world=1, device=CPU)
    some = np.array([100, 3, 57])
    states, mask = lower.padded(some)
    ids, same_mask = tokens.padded(some)
    assert torch.equal(mask, same_mask)
    with torch.no_grad():
        torch.testing.assert_close(states[mask], tower.lower_states(ids, mask)[mask], atol=1e-5, rtol=0)
    nothing, _ = lower.padded(np.empty(0, np.int64))
    assert len(nothing) == 0


def test_every_rank_calls_the_tower_equally_often(
    tower_and_tokens: tuple[TextTower, Tokens], monkeypatch: pytest.MonkeyPatch
) -> None:
    """65 texts on two ranks are 33 and 32: none may finish a pass earlier than the other."""
    tower, tokens = tower_and_tokens
    lower = lower_states(tower, tokens, rank=0, world=1, device=CPU)
    whole = text_vectors(tower, lower, 65, rank=0, world=1, device=CPU)
    calls, pooled = [0], tower.pooled

    def counted(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return pooled(states, mask)

    parts: list[tuple[np.ndarray, np.ndarray]] = []
    monkeypatch.setitem(TEXTS_PER_PASS, "cpu", 32)
    monkeypatch.setattr("clm_ray.train.texts._gathered", lambda part, world: parts.append(part) or parts)
    monkeypatch.setattr(tower, "pooled", counted)
    made = []
    for rank in (0, 1):
        calls[0] = 0
        joined = text_vectors(tower, lower, 65, rank=rank, world=2, device=CPU)
        made.append(calls[0])
    assert made == [2, 2]
    np.testing.assert_allclose(joined, whole, atol=1e-5)


def test_the_refreshed_vectors_are_those_of_the_tower_as_it_is_now(tower_and_tokens: tuple[TextTower, Tokens]) -> None:
    tower, tokens = tower_and_tokens
    lower = lower_states(tower, tokens, rank=0, world=1, device=CPU)
    before = text_vectors(tower, lower, len(tokens), rank=0, world=1, device=CPU)
    with torch.no_grad():
        for parameter in tower.upper.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
        expected = tower(*tokens.padded(np.arange(len(tokens))))
    after = text_vectors(tower, lower, len(tokens), rank=0, world=1, device=CPU)
    np.testing.assert_allclose(after, expected.numpy(), atol=1e-4)
    assert np.abs(after - before).max() > 0.01
