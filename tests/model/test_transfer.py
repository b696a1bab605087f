"""Start weights from another model, and a model that is denied some of its inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_shop import LOOKS, SmallShop, make_shop, small_recipe
from tiny_bert import LAYERS, write_tiny_bert

from clm_ray.config.model import EncoderConfig, LoraConfig
from clm_ray.errors import ConfigError
from clm_ray.features.tokens import TOKEN_VALUES
from clm_ray.features.user import CUMULATIVE
from clm_ray.model.files import Description, save_weights
from clm_ray.model.recommender import Recommender
from clm_ray.model.text import TextTower, load_pretrained
from clm_ray.model.transfer import TRANSFERRED, start_from


@pytest.fixture(scope="module")
def shop() -> SmallShop:
    return make_shop()


def made(shop: SmallShop, *, seed: int, **model: object) -> Recommender:
    return shop.with_recipe(small_recipe(model=model)).model(seed=seed)


def written(shop: SmallShop, folder: Path, model: Recommender) -> Path:
    folder.mkdir()
    save_weights(folder, dict(model.state_dict()), Description(model.network.sizes, shop.users))
    return folder


def test_towers_are_taken_over_and_what_means_something_in_one_recipe_only_is_not(
    shop: SmallShop, tmp_path: Path
) -> None:
    other, mine = made(shop, seed=1), made(shop, seed=2)
    before = {name: tensor.clone() for name, tensor in mine.named_parameters()}
    taken = start_from(mine, written(shop, tmp_path / "model", other))
    theirs = dict(other.named_parameters())
    assert {name for name in before if name.startswith(TRANSFERRED)} == set(taken)
    assert any(name.startswith("network.blocks.") for name in taken)
    for name, tensor in mine.named_parameters():
        assert torch.equal(tensor, theirs[name] if name in taken else before[name]), name
    assert "network.identifier.weight" not in taken


def test_another_size_and_an_empty_folder_are_refused(shop: SmallShop, tmp_path: Path) -> None:
    folder = written(shop, tmp_path / "model", made(shop, seed=1))
    wider = made(shop, seed=2, width=2 * small_recipe().model.width)
    with pytest.raises(ConfigError, match=r"train\.start_from.*model\.width"):
        start_from(wider, folder)
    with pytest.raises(ConfigError, match="no weights to start from"):
        start_from(wider, tmp_path)


def towered(shop: SmallShop, bert: Path, *, trained_layers: int, lora: LoraConfig | None = None) -> Recommender:
    """A model whose text tower is the tiny BERT, all weights of its layers random."""
    encoder, _ = load_pretrained(EncoderConfig(name=str(bert)))
    return shop.model(TextTower(encoder, trained_layers=trained_layers, pooling="mean", lora=lora))


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)], ids=["whole", "adapters"])
@pytest.mark.parametrize("trained_layers", [0, 1, 2, LAYERS])
def test_layers_of_the_encoder_go_to_their_own_place_wherever_the_cut_is(
    shop: SmallShop, tmp_path: Path, trained_layers: int, lora: LoraConfig | None
) -> None:
    bert = write_tiny_bert(tmp_path / "bert", LOOKS)
    other = towered(shop, bert, trained_layers=2)
    assert other.tower is not None
    with torch.no_grad():
        for parameter in other.tower.parameters():
            parameter.add_(torch.randn_like(parameter))
    mine = towered(shop, bert, trained_layers=trained_layers, lora=lora if trained_layers else None)
    assert mine.tower is not None
    taken = start_from(mine, written(shop, tmp_path / "model", other))
    assert sum(name.startswith("tower.") for name in taken) == len(list(other.tower.parameters()))
    theirs, here = (
        [dict(layer.named_parameters()) for layer in (*tower.lower, *tower.upper)]
        for tower in (other.tower, mine.tower)
    )
    assert len(theirs) == len(here) == LAYERS
    for expected, found in zip(theirs, here, strict=True):
        plain = {name.replace(".base_layer.", "."): w for name, w in found.items() if ".lora_" not in name}
        assert plain.keys() == expected.keys()
        assert all(torch.equal(plain[name], expected[name]) for name in plain)
    ids, mask = torch.tensor([[5, 6, 7], [6, 5, 0]]), torch.tensor([[True] * 3, [True, True, False]])
    torch.testing.assert_close(mine.tower.eval()(ids, mask), other.tower.eval()(ids, mask))


def test_an_encoder_with_another_number_of_layers_is_refused(
    shop: SmallShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = towered(shop, write_tiny_bert(tmp_path / "bert", LOOKS), trained_layers=1)
    folder = written(shop, tmp_path / "model", other)
    monkeypatch.setattr("tiny_bert.LAYERS", LAYERS - 1)
    mine = towered(shop, write_tiny_bert(tmp_path / "shorter", LOOKS), trained_layers=1)
    with pytest.raises(ConfigError, match=rf"another encoder: it has {LAYERS} layers, here are {LAYERS - 1}"):
        start_from(mine, folder)


def test_token_values_that_are_left_out_change_nothing(shop: SmallShop) -> None:
    whole, denied = made(shop, seed=3), made(shop, seed=3, without=["surprise", "log_gap"])
    batch = shop.maker().make(shop.batch_windows(0, 4), rank=0, world=1, step=0, epoch=0, train=False)
    out = [TOKEN_VALUES.index("surprise"), TOKEN_VALUES.index("log_gap_days")]
    assert batch.users.value_BNV[..., out].any()
    with torch.no_grad():
        item_UD = whole.network.item_vectors(torch.zeros(len(batch.texts.cache_row_X), 1), batch.items)
        tokens = [m.network.tokens(item_UD, batch.users) for m in (whole, denied)]
        batch.users.value_BNV[..., out] = 0.0
        tokens += [whole.network.tokens(item_UD, batch.users)]
    assert not torch.equal(tokens[0], tokens[1])
    torch.testing.assert_close(tokens[1], tokens[2])


def test_features_that_are_left_out_are_not_chosen(shop: SmallShop) -> None:
    spec = shop.spec.without(("neighbour_", "user_bias"))
    assert not [n for n in spec.click.chosen if n.startswith(("neighbour_", "user_bias"))]
    assert [n for n in shop.spec.click.chosen if n.startswith("neighbour_")]
    assert spec.click.dropped["neighbour_choice"] == "left out (model.without)"
    dense = np.random.default_rng(0).normal(size=(5, len(spec.click.names))).astype(np.float32)
    kept = [n for n, name in enumerate(shop.spec.click.chosen) if name in spec.click.chosen]
    np.testing.assert_array_equal(spec.click.apply(dense), shop.spec.click.apply(dense)[:, kept])


def test_what_only_grows_is_for_clicks_alone(shop: SmallShop) -> None:
    spec = shop.spec.stationary()
    assert spec.click == shop.spec.click
    assert {*CUMULATIVE} & {*shop.spec.retention.chosen}
    assert [n for n in shop.spec.retention.chosen if n not in CUMULATIVE] == list(spec.retention.chosen)
    assert spec.retention.dropped["user_log_events"] == "only grows (model.retention_cumulative)"
    dense = np.random.default_rng(0).normal(size=(5, len(spec.retention.names))).astype(np.float32)
    kept = [n for n, name in enumerate(shop.spec.retention.chosen) if name in spec.retention.chosen]
    np.testing.assert_array_equal(spec.retention.apply(dense), shop.spec.retention.apply(dense)[:, kept])
