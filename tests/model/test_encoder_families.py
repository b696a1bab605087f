"""Encoders of every family: taken apart and cut in two they are still the encoders that they were."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_encoders import FAMILIES, HIDDEN, LAYERS, POOLING, pooled_one, random_tokens, states_of, tiny_encoder
from transformers import AutoConfig, AutoModel, LlamaConfig, XLNetConfig

from clm_ray.config.model import EncoderConfig
from clm_ray.errors import ConfigError
from clm_ray.model.text import TextTower, check_encoder, tokenize

TOKENS = random_tokens([4, 1, 9, 2, 6])


def _tower(kind: str, *, trained_layers: int = 1, pooling: str | None = None) -> TextTower:
    return TextTower(tiny_encoder(kind), trained_layers=trained_layers, pooling=pooling or POOLING[kind]).eval()


@pytest.mark.parametrize("trained_layers", [0, 2, LAYERS])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_padded_batch_gets_the_vectors_of_the_plain_encoder(kind: str, trained_layers: int) -> None:
    ids, mask = TOKENS.padded(np.arange(len(TOKENS)))
    plain, tower = tiny_encoder(kind), _tower(kind, trained_layers=trained_layers)
    with torch.no_grad():
        found = tower.pooled(tower.lower_states(ids, mask), mask)
        states = states_of(plain, ids, mask)
        alone = [pooled_one(plain, TOKENS, text, pooling=POOLING[kind]) for text in range(len(TOKENS))]
    together = [s[m].mean(0) if POOLING[kind] == "mean" else s[m][-1] for s, m in zip(states, mask, strict=True)]
    assert found.shape == (len(TOKENS), tower.hidden) == (len(TOKENS), HIDDEN)
    assert found.std(0).mean() > 0.1, "texts that all look alike would prove nothing"
    torch.testing.assert_close(found, torch.stack(together), atol=2e-5, rtol=0)
    torch.testing.assert_close(found, torch.stack(alone), atol=2e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "last", "attention"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_what_stands_in_padded_places_is_not_seen(kind: str, pooling: str) -> None:
    tower = _tower(kind, pooling=pooling)
    if tower.pool is not None:
        torch.nn.init.normal_(tower.pool.query)
    ids, mask = TOKENS.padded(np.arange(len(TOKENS)))
    other = ids.where(mask, torch.full_like(ids, 11))
    with torch.no_grad():
        states = tower.lower_states(ids, mask)
        found = tower.pooled(states, mask)
        torch.testing.assert_close(tower(other, mask), found, atol=1e-6, rtol=0)
        noisy = states + torch.randn_like(states) * ~mask.unsqueeze(-1)
        torch.testing.assert_close(tower.pooled(noisy, mask), found, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", FAMILIES)
def test_bf16_is_near_and_the_weights_stay_float32(kind: str) -> None:
    tower, (ids, mask) = _tower(kind), TOKENS.padded(np.arange(len(TOKENS)))
    exact = tower(ids, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = tower(ids, mask)
    torch.testing.assert_close(rounded.float(), exact, atol=0.15, rtol=0.1)
    assert not torch.equal(rounded.float(), exact)
    rounded.float().square().mean().backward()
    trained = [p for p in tower.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 and p.grad is not None and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize(("kind", "norm"), [("bert", False), ("gpt2", True), ("qwen3", True)])
def test_the_final_norm_is_trained_with_the_layers_before_it(kind: str, norm: bool) -> None:
    def trained(layers: int) -> set[str]:
        tower = _tower(kind, trained_layers=layers)
        return {n.split(".")[0] for n, p in tower.named_parameters() if p.requires_grad}

    assert trained(0) == set()
    assert trained(1) == trained(LAYERS) == ({"upper", "norm"} if norm else {"upper"})


def test_attention_pooling_begins_as_the_mean_and_learns_what_to_look_at() -> None:
    ids, mask = TOKENS.padded(np.arange(len(TOKENS)))
    tower, mean = _tower("distilbert", pooling="attention"), _tower("distilbert", pooling="mean")
    torch.testing.assert_close(tower(ids, mask), mean(ids, mask), atol=1e-6, rtol=0)
    assert tower.pool is not None
    states = tower.lower_states(ids, mask)
    final = tower.family.run(tower.upper, states, mask)
    with torch.no_grad():
        tower.pool.query.copy_(1000 * final[2, 5])
    likeliest = (final[2, :9] @ final[2, 5]).argmax()
    torch.testing.assert_close(tower.pooled(states, mask)[2], final[2, likeliest], atol=1e-4, rtol=0)
    tower(ids, mask).square().sum().backward()
    assert tower.pool.query.grad is not None
    assert tower.new_parameters() == [tower.pool.query]


@pytest.mark.parametrize(("kind", "why"), [("gpt2", "causal"), ("xlnet", "class token is the last")])
def test_pooling_the_first_token_of_an_encoder_in_which_it_means_little_is_refused(kind: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        _tower(kind, pooling="cls")
    assert (caught.value.field, caught.value.value) == ("model.encoder.pooling", "cls")
    assert "last" in caught.value.fix


def _write(folder: Path, kind: str) -> EncoderConfig:
    tiny_encoder(kind).save_pretrained(folder)
    return EncoderConfig(name=str(folder), max_tokens=38)


def test_an_unknown_family_is_refused_with_those_that_are_known_before_work_begins(tmp_path: Path) -> None:
    config = AutoConfig.for_model("albert", vocab_size=8, hidden_size=8, num_attention_heads=1, intermediate_size=8)
    config.save_pretrained(tmp_path)
    for ask in (
        lambda: check_encoder(EncoderConfig(name=str(tmp_path))),
        lambda: TextTower(AutoModel.from_config(config), trained_layers=0, pooling="mean"),
    ):
        with pytest.raises(ConfigError, match="not known") as caught:
            ask()
        assert (caught.value.field, caught.value.value) == ("model.encoder.name", "albert")
        assert {"bert", "roberta", "distilbert", "gpt2", "xlnet"} <= set(caught.value.fix.replace(",", "").split())


def test_kinds_that_would_be_run_wrongly_are_refused() -> None:
    sliding = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    llama = AutoModel.from_config(sliding)
    llama.config.layer_types = ["sliding_attention"]
    one_way = XLNetConfig(vocab_size=8, d_model=8, n_layer=1, n_head=1, d_inner=8, attn_type="uni")
    decoder = tiny_encoder("bert")
    decoder.config.is_decoder = True
    for encoder, why in ((llama, "sliding"), (AutoModel.from_config(one_way), "another kind"), (decoder, "decoder")):
        with pytest.raises(ConfigError, match=why):
            TextTower(encoder, trained_layers=0, pooling="mean")


@pytest.mark.parametrize(("kind", "most"), [("roberta", 38), ("gpt2", 64), ("xlnet", None)])
def test_texts_longer_than_the_encoder_has_positions_for_are_refused(
    tmp_path: Path, kind: str, most: int | None
) -> None:
    config = _write(tmp_path, kind)
    check_encoder(config.model_copy(update={"max_tokens": most or 10_000}))
    tower = _tower(kind)
    long = random_tokens([most or 100])
    tower(*long.padded(np.arange(1)))
    if most is not None:
        with pytest.raises(ConfigError, match=f"max_tokens.*at most {most}"):
            check_encoder(config.model_copy(update={"max_tokens": most + 1}))


def test_an_empty_text_has_a_token_whatever_the_tokenizer() -> None:
    class BareTokenizer:
        bos_token_id, eos_token_id = None, 7

        def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
            return {"input_ids": [[len(word) for word in text.split()] for text in texts]}

    tokens = tokenize(["", "one two", ""], BareTokenizer(), max_tokens=8)
    assert tokens.lengths().tolist() == [1, 2, 1]
    assert tokens.id_V.tolist() == [7, 3, 3, 7]
    assert _tower("gpt2")(*tokens.padded(np.arange(3))).isfinite().all()


def test_taking_an_encoder_apart_leaves_its_weights_alone() -> None:
    encoder = tiny_encoder("xlnet")
    before = copy.deepcopy(encoder.state_dict())
    TextTower(encoder, trained_layers=1, pooling="last")
    assert all(torch.equal(before[n], t) for n, t in encoder.state_dict().items())
