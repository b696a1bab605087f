"""A small shop and its store on disk."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient
from serve_fakes import ADMIN, NOW, Parts

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.serve.args import CoalesceArgs, TimeoutArgs
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.http import build_http
from clm_ray.store.clock import Clock
from clm_ray.store.store import Store


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return recipe_from(
        {
            "name": "shop",
            "source": {"kind": "files", "events": {"paths": ["unused.parquet"]}},
            "event_types": {
                "purchase": {"roles": ["positive", "context", "activity"], "value": "amount"},
                "rating": {"roles": ["context", "activity"], "value": "rating", "positive_from": 4},
                "mailing": {"roles": ["context"]},
                "impression": {"roles": []},
                "click": {"roles": ["positive", "context", "activity"]},
            },
            "serve": {"k": 3, "max_candidates": 8, "retrieve": 4},
        }
    )


@pytest.fixture(scope="session")
def served(recipe: Recipe) -> ServedCatalogue:
    """Nine items; popularity order is i9, i8, ... i1; odd ones are fruit."""
    ids = ["", *(f"i{n}" for n in range(1, 10))]
    return ServedCatalogue(
        release="r1",
        recipe=recipe,
        catalogue=Catalogue.build(ids, [f"text of {i}" for i in ids], [["fruit"] if n % 2 else [] for n in range(10)]),
        vocabulary=EventVocabulary(recipe.event_types),
        popular_I=np.arange(9, 0, -1, dtype=np.int32),
    )


@pytest.fixture
def parts(store: Store) -> Parts:
    return Parts(store=store)


@pytest.fixture
def gateway(served: ServedCatalogue, store: Store, parts: Parts) -> Gateway:
    return Gateway(
        served=served,
        store=store,
        clock=Clock(kind="wall", wall=lambda: NOW),
        hops=parts.hops(),
        coalesce=CoalesceArgs(),
        timeouts=TimeoutArgs(
            profiler_s=0.3, ranker_s=0.3, retention_s=0.3, explainer_s=0.3, encoder_s=0.3, store_s=5.0
        ),
    )


@pytest.fixture
def http(gateway: Gateway) -> Iterator[TestClient]:
    app = build_http(gateway, admin_token=ADMIN)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
