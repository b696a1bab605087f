"""One suite for every backend: a test that asks for `store` or `store_url` runs once per backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.postgres import fresh_schema
from clm_ray.store.records import RetentionDecision
from clm_ray.store.store import Store, open_store

BACKENDS = ("sqlite", "postgresql")


@pytest.fixture(params=BACKENDS)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database: a file, or a schema of its own in the session's PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
        return
    with fresh_schema(request.getfixturevalue("postgres")) as url:
        yield url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """A fresh store."""
    with open_store(store_url) as opened:
        yield opened


@pytest.fixture
def decision() -> Callable[..., RetentionDecision]:
    """Makes decisions; what a test does not say is filled in."""

    def make(**given: Any) -> RetentionDecision:
        usual: dict[str, Any] = {
            "action_id": f"action:{given.get('user_id', 'u')}:{given.get('epoch', 1)}",
            "user_id": "u",
            "epoch": 1,
            "epoch_start": 0,
            "time": 10,
            "policy_version": "stage-1",
            "policy_digest": "p",
            "release_id": "r1",
            "stage": "at_risk",
            "consent": True,
            "last_taken": {},
            "holdout": False,
            "feasible": ("none", "coupon"),
            "probabilities": (0.25, 0.75),
            "action": "coupon",
            "propensity": 0.75,
            "cost": 0.0,
            "masks": (),
            "features_digest": "d",
            "outcome_due": 100,
        }
        return RetentionDecision(**{**usual, **given})

    return make
