"""With pseudonyms, callers keep their ids and nothing behind the gateway ever sees one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from serve_fakes import NOW, Parts

from clm_ray.privacy import Pseudonyms
from clm_ray.serve.args import CoalesceArgs, TimeoutArgs
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.http import build_http
from clm_ray.store.clock import Clock
from clm_ray.store.store import Store

PSEUDONYMS = Pseudonyms(b"a key of enough characters")
ANN = PSEUDONYMS.of("ann@example.org")


@pytest.fixture
def http(served: ServedCatalogue, store: Store, parts: Parts) -> Iterator[TestClient]:
    gateway = Gateway(
        served=replace(served, pseudonyms=PSEUDONYMS),
        store=store,
        clock=Clock(kind="wall", wall=lambda: NOW),
        hops=parts.hops(),
        coalesce=CoalesceArgs(),
        timeouts=TimeoutArgs(),
    )
    with TestClient(build_http(gateway, admin_token=None), raise_server_exceptions=False) as client:
        yield client


def test_the_store_and_the_parts_know_pseudonyms_alone(
    http: TestClient, store: Store, parts: Parts, tmp_path: Path
) -> None:
    event = {"event_id": "e1", "user_id": "ann@example.org", "event_type": "click", "item_id": "i1"}
    assert http.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1
    answer = http.post("/v1/recommend", json={"user_id": "ann@example.org"}).json()
    profile = http.get("/v1/users/ann%40example.org/profile").json()
    assert (answer["user_id"], profile["user_id"]) == ("ann@example.org", "ann@example.org")
    assert len(store.histories([ANN])[ANN]) == 1
    assert store.slates_of([answer["decision_id"]])[answer["decision_id"]].user_id == ANN
    assert {ask.user_id for batch in parts.profile_batches for ask in batch.asks} == {ANN}
    assert {facts.user_id for batch in parts.retain_batches for facts in batch.facts} == {ANN}
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert ANN.encode() in written
    assert b"ann@" not in written
