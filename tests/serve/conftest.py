"""A small shop and its store on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from serve_fakes import ADMIN, Parts, gateway_of

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.http import build_http
from clm_ray.store.store import Store, open_store


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
    return gateway_of(served, store, parts)


@pytest.fixture
def http(gateway: Gateway) -> Iterator[TestClient]:
    app = build_http(gateway, admin_token=ADMIN)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def spec(served: ServedCatalogue, empty_store: Path) -> dict[str, Any]:
    """The generated OpenAPI description, asked once: it is that of any application, and takes longer to make than any answer."""
    with open_store(f"sqlite:///{empty_store}") as store:
        app = build_http(gateway_of(served, store, Parts(store=store)), admin_token=ADMIN)
        description: dict[str, Any] = TestClient(app).get("/openapi.json").json()
    return description
