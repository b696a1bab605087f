"""What retention reads of a release: the columns that the policy asks for, and no policy that asks for what nobody has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clm_ray.config.recipe import recipe_from
from clm_ray.errors import ConfigError
from clm_ray.features.worth import spend_at_own_rate
from clm_ray.schema import USERS
from clm_ray.serve.hops import RetentionFacts
from clm_ray.serve.retention import input_of, open_retention
from clm_ray.store.records import UserOverlay

DAY = 86_400_000_000
NOW = 19_744 * DAY + DAY
RULE: dict[str, Any] = {
    "name": "r",
    "kind": "ethical",
    "reason": "so",
    "exclude_actions": ["reminder"],
    "when": {"column": "age", "below": 18},
}


def write(folder: Path, policy: dict[str, Any]) -> Path:
    recipe = recipe_from(
        {
            "name": "shop",
            "source": {"kind": "files", "events": {"paths": ["unused.parquet"]}},
            "event_types": {"purchase": {"roles": ["positive", "context", "activity"], "value": "amount"}},
            "policy": policy,
        }
    )
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    thresholds = {"new_days": 28.0, "at_risk_days": 14.0, "churned_days": 60.0, "reactivated_days": 28.0}
    (folder / "manifest.json").write_text(json.dumps({"id": "r1", "parents": {}, "thresholds": thresholds}))
    rows = [
        {
            "user_id": "ann",
            "categorical": [("town", "x")],
            "numeric": [("age", 30.0)],
            "consent": True,
            "timezone": "UTC",
        },
        {"user_id": "bob", "consent": False, "timezone": "Europe/Berlin"},
    ]
    table = pa.Table.from_pylist([{name: row.get(name) for name in USERS.names} for row in rows], schema=USERS)
    pq.write_table(table, folder / "users.parquet")
    return folder


def test_only_what_the_policy_asks_for_is_kept(tmp_path: Path) -> None:
    release = open_retention(write(tmp_path, {"rules": [RULE]}))
    assert {user: known.columns for user, known in release.users.items()} == {"ann": {"age": 30.0}, "bob": {}}
    assert release.activity == {"purchase"}
    nothing = open_retention(write(tmp_path, {}))
    assert {user: known.columns for user, known in nothing.users.items()} == {"ann": {}, "bob": {}}


def test_a_policy_that_asks_for_what_nobody_has_is_not_served(tmp_path: Path) -> None:
    wrong = {**RULE, "when": {"column": "birthday", "missing": True}}
    with pytest.raises(ConfigError, match="does not have"):
        open_retention(write(tmp_path, {"rules": [wrong]}))


def test_an_input_is_as_of_the_start_of_the_period(tmp_path: Path) -> None:
    release = open_retention(write(tmp_path, {"rules": [RULE]}))
    start = 19_744 * DAY  # a Monday
    time_N = np.array([start - 60 * DAY, start - 20 * DAY, start + 1], np.int64)
    facts = RetentionFacts("ann", NOW, time_N, np.array([50.0, 30.0, 1e6], np.float32), 0.25)
    made = input_of(facts, release, overlay=UserOverlay("ann", consent=False), now=NOW)
    assert (made.stage, made.consent, made.forecast, made.columns) == ("at_risk", False, 0.25, {"age": 30.0})
    assert made.spend == pytest.approx(80.0 / 40 * 28)
    assert made.why.startswith("silent for 20.0 days")
    assert input_of(RetentionFacts("zoe", NOW, time_N[:0]), release, overlay=None, now=NOW).spend is None


def test_the_rate_is_over_the_life_and_at_least_four_weeks() -> None:
    time_N = np.array([0, 56 * DAY], np.int64)
    amount_N = np.array([10.0, 30.0], np.float32)
    assert spend_at_own_rate(time_N, amount_N, at=100 * DAY, days=28) == pytest.approx(40 / 56 * 28)
    assert spend_at_own_rate(time_N, amount_N, at=56 * DAY, days=28) == pytest.approx(10.0)
    assert spend_at_own_rate(time_N, amount_N, at=0, days=28) is None
