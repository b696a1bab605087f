"""Selection by rule: each rule drops what it names, says why, and leaves the rest."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score, roc_auc_score

from clm_ray.config.data import FeaturesConfig
from clm_ray.features.selection import mutual_information, select, single_auc
from clm_ray.features.spec import FeatureSpec, Selection

ROWS = 4000
NAMES = ("signal", "constant", "twin", "noise", "leak", "mirror", "other")


def made_columns(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    label = (random.random(ROWS) < 0.3).astype(np.float32)
    signal = label + random.normal(0, 2, ROWS)
    other = -label + random.normal(0, 2, ROWS)
    leak = label + random.normal(0, 0.01, ROWS)
    columns = [signal, np.full(ROWS, 3.0), 2 * signal + 5, random.random(ROWS), leak, -signal, other]
    return np.stack(columns, axis=1).astype(np.float32), label


def test_each_rule_drops_its_column_and_says_why() -> None:
    dense, label = made_columns()
    found = select(dense, label, names=NAMES, config=FeaturesConfig(min_information=1e-3))
    assert found.chosen == ("signal", "other")
    assert {name: reason.split(":")[0] for name, reason in found.dropped.items()} == {
        "constant": "constant",
        "twin": "duplicated",
        "mirror": "duplicated",
        "noise": "useless",
        "leak": "leaking",
    }
    assert found.dropped["twin"] == "duplicated: correlation 1.0000 with signal"


def test_thresholds_come_from_the_recipe() -> None:
    dense, label = made_columns()

    def dropped(**thresholds: float) -> set[str]:
        return set(select(dense, label, names=NAMES, config=FeaturesConfig(**thresholds)).dropped)

    assert "leak" not in dropped(max_auc=1.0)
    assert {"signal", "other"} <= dropped(max_auc=0.6)
    assert {"signal", "other"} <= dropped(min_information=0.1)
    assert "other" in dropped(max_correlation=0.01)


def test_chosen_columns_come_standardised_and_cut() -> None:
    dense, label = made_columns()
    dense[0, 0] = 1e4
    found = select(dense, label, names=NAMES, config=FeaturesConfig(max_auc=0.99))
    applied = found.apply(dense)
    assert applied.shape == (ROWS, len(found.chosen))
    assert applied[0, 0] == 5.0
    plain = (dense[1:, 6].astype(np.float64) - dense[:, 6].mean()) / dense[:, 6].std()
    np.testing.assert_allclose(applied[1:, found.chosen.index("other")], plain, atol=1e-4)


def test_rows_without_a_label_are_not_looked_at() -> None:
    dense, label = made_columns()
    wild = np.concatenate([dense, dense * 100 + 7])
    unknown = np.concatenate([label, np.full(ROWS, np.nan, np.float32)])
    config = FeaturesConfig()
    assert select(wild, unknown, names=NAMES, config=config) == select(dense, label, names=NAMES, config=config)


def test_without_train_rows_everything_is_dropped() -> None:
    found = select(np.empty((0, 2), np.float32), np.empty(0, np.float32), names=("a", "b"), config=FeaturesConfig())
    assert (found.chosen, dict(found.dropped)) == ((), {"a": "no train rows", "b": "no train rows"})
    assert found.apply(np.zeros((3, 2), np.float32)).shape == (3, 0)


def test_auc_and_information_are_those_of_the_textbook() -> None:
    dense, label = made_columns()
    coarse = np.round(dense[:, 0]).astype(np.float64)
    assert single_auc(coarse, label) == pytest.approx(roc_auc_score(label, coarse), abs=1e-9)
    assert single_auc(coarse, np.ones_like(label)) == 0.5
    coin = np.random.default_rng(1).integers(0, 2, ROWS).astype(np.float64)
    mixed = np.where(np.random.default_rng(2).random(ROWS) < 0.7, label, coin)
    bias = 1 / (2 * ROWS)
    assert mutual_information(mixed, label) == pytest.approx(mutual_info_score(mixed, label) - bias, abs=1e-9)


def test_information_of_noise_is_nothing_on_average() -> None:
    label = made_columns()[1]
    noise = np.random.default_rng(3).random((30, ROWS))
    assert abs(np.mean([mutual_information(column, label) for column in noise])) < 3e-4


def test_the_spec_survives_json() -> None:
    dense, label = made_columns()
    selection = select(dense, label, names=NAMES, config=FeaturesConfig())
    spec = FeatureSpec(click=selection, retention=Selection(("a",), (), {"a": "constant"}, (), ()))
    assert FeatureSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
