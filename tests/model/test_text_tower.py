"""The text tower on a tiny random BERT: cut in two it is still the encoder that it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bert import HIDDEN, LAYERS, write_tiny_bert
from transformers import AutoModel

from clm_ray.config.model import EncoderConfig
from clm_ray.errors import AssetError, ConfigError
from clm_ray.model.text import TextTower, Tokens, check_encoder, encoder_path, load_pretrained, tokenize

TEXTS = ["red bread", "old garden 12, large and old", "x", "cheese", "red red red red bread"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("bert"), TEXTS)


@pytest.fixture(scope="module")
def tokens(bert: Path) -> Tokens:
    return tokenize(TEXTS, load_pretrained(EncoderConfig(name=str(bert)))[1], max_tokens=16)


@pytest.mark.parametrize("trained_layers", range(LAYERS + 1))
def test_lower_and_upper_part_together_are_the_plain_encoder(bert: Path, tokens: Tokens, trained_layers: int) -> None:
    ids, mask = tokens.padded(np.arange(len(TEXTS)))
    plain = AutoModel.from_pretrained(bert).eval()
    tower = TextTower(
        load_pretrained(EncoderConfig(name=str(bert)))[0], trained_layers=trained_layers, pooling="mean"
    ).eval()
    with torch.no_grad():
        states = plain(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        expected = torch.stack([s[m].mean(0) for s, m in zip(states, mask, strict=True)])
        found = tower.pooled(tower.lower_states(ids, mask), mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.shape == (len(TEXTS), tower.hidden) == (len(TEXTS), HIDDEN)
    assert expected.std(0).mean() > 0.1, "texts that all look alike would prove nothing"


@pytest.mark.parametrize(("pooling", "token"), [("cls", 0), ("last", -1)])
def test_pooling_can_take_the_first_or_the_last_token(bert: Path, tokens: Tokens, pooling: str, token: int) -> None:
    encoder, _ = load_pretrained(EncoderConfig(name=str(bert)))
    tower = TextTower(encoder, trained_layers=1, pooling=pooling).eval()
    ids, mask = tokens.padded(np.arange(len(TEXTS)))
    with torch.no_grad():
        states = encoder.eval()(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        expected = torch.stack([s[m][token] for s, m in zip(states, mask, strict=True)])
        torch.testing.assert_close(tower(ids, mask), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_text_has_the_same_vector_whatever_it_is_padded_to(bert: Path, tokens: Tokens, pooling: str) -> None:
    encoder, _ = load_pretrained(EncoderConfig(name=str(bert)))
    tower = TextTower(encoder, trained_layers=2, pooling=pooling).eval()
    with torch.no_grad():
        together = tower(*tokens.padded(np.arange(len(TEXTS))))
        for x in range(len(TEXTS)):
            torch.testing.assert_close(tower(*tokens.padded(np.array([x]))), together[[x]], atol=1e-5, rtol=0)


def test_only_the_top_layers_are_trained(bert: Path) -> None:
    def trained(layers: int) -> set[str]:
        encoder, _ = load_pretrained(EncoderConfig(name=str(bert)))
        tower = TextTower(encoder, trained_layers=layers, pooling="mean")
        return {".".join(n.split(".")[:2]) for n, p in tower.named_parameters() if p.requires_grad}

    assert trained(0) == set()
    assert trained(1) == {"upper.0"}
    assert trained(LAYERS) == {f"upper.{n}" for n in range(LAYERS)}, (
        "the embeddings stay frozen: their output is cached"
    )
    with pytest.raises(ConfigError, match=r"trained_layers.*at most 3"):
        trained(LAYERS + 1)


def test_tokens_come_in_groups_of_similar_length_each_text_once(tokens: Tokens) -> None:
    assert tokens.lengths().tolist() == [4, 10, 3, 3, 7]
    groups = list(tokens.batches([4, 3, 2, 1, 0], 2))
    assert [sorted(texts.tolist()) for texts, _, _ in groups] == [[2, 3], [0, 4], [1]]
    for texts, ids, mask in groups:
        assert ids.shape == mask.shape == (len(texts), tokens.lengths()[texts].max())
        assert mask.sum(1).tolist() == tokens.lengths()[texts].tolist()
        assert (ids[~mask] == 0).all()
        for x, text in enumerate(texts):
            assert ids[x][mask[x]].tolist() == tokens.id_V[tokens.start[text] : tokens.start[text + 1]].tolist()


def test_long_texts_are_cut_with_their_end_mark(bert: Path) -> None:
    _, tokenizer = load_pretrained(EncoderConfig(name=str(bert)))
    cut = tokenize(["red " * 30, "red"], tokenizer, max_tokens=6)
    assert cut.lengths().tolist() == [6, 3]
    assert cut.id_V[5] == tokenizer.sep_token_id


def test_the_pinned_digest_is_checked(bert: Path) -> None:
    digest = hashlib.sha256((bert / "model.safetensors").read_bytes()).hexdigest()
    assert encoder_path(EncoderConfig(name=str(bert), sha256=digest)) == str(bert)
    check_encoder(EncoderConfig(name=str(bert), sha256=digest))
    with pytest.raises(AssetError, match="not the pinned") as caught:
        encoder_path(EncoderConfig(name=str(bert), sha256="0" * 64))
    assert (caught.value.field, caught.value.value) == ("model.encoder.sha256", digest)
    assert caught.value.fix


def test_an_encoder_inside_a_package_is_found(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "a_package_with_bert"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    for file in bert.iterdir():
        (package / "weights" / file.name).write_bytes(file.read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path))
    config = EncoderConfig(name="package:a_package_with_bert")
    assert encoder_path(config) == str(package / "weights")
    assert load_pretrained(config)[0].config.hidden_size == HIDDEN


def _package(folder: Path, files: dict[str, bytes]) -> str:
    package = folder / "a_package_without_bert"
    package.mkdir()
    for name, content in {"__init__.py": b"", **files}.items():
        (package / name).write_bytes(content)
    return "package:a_package_without_bert"


@pytest.mark.parametrize(
    "name", ["package:no_such_package", "package:no_such.package", "package:", "some-org/no-such-bert"]
)
@pytest.mark.parametrize("ask", [load_pretrained, check_encoder])
def test_an_encoder_that_is_not_there_is_an_error_with_a_way_out(
    name: str, ask: Callable[[EncoderConfig], object]
) -> None:
    with pytest.raises(AssetError) as caught:
        ask(EncoderConfig(name=name))
    assert (caught.value.field, caught.value.value) == ("model.encoder.name", name)
    assert "local folder" in caught.value.fix


def test_offline_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(AssetError, match="HF_HUB_OFFLINE is set"):
        load_pretrained(EncoderConfig(name="some-org/no-such-bert"))


def test_a_package_without_weights_is_an_error_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = _package(tmp_path, {"config.json": b"{}"})
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(AssetError, match="no model") as caught:
        encoder_path(EncoderConfig(name=name))
    assert "local folder" in caught.value.fix


def test_a_folder_without_pinned_weights_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"model\.safetensors") as caught:
        encoder_path(EncoderConfig(name=str(tmp_path), sha256="0" * 64))
    assert caught.value.fix


def test_damaged_weights_are_an_error_with_a_way_out(bert: Path, tmp_path: Path) -> None:
    for file in bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(AssetError) as caught:
        load_pretrained(EncoderConfig(name=str(tmp_path)))
    assert caught.value.fix
