"""Metrics: what is recorded, and that it is handed over whole."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from recorded import Recorded
from serve_fakes import NOW, Parts

from clm_ray.serve import measures
from clm_ray.serve.args import CoalesceArgs, TimeoutArgs
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.http import build_http
from clm_ray.serve.observed import outcome
from clm_ray.store.clock import Clock
from clm_ray.store.store import Store


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
def http(served: ServedCatalogue, store: Store, parts: Parts, recorded: Recorded) -> Iterator[TestClient]:
    gateway = Gateway(
        served=served,
        store=store,
        clock=Clock(kind="wall", wall=lambda: NOW),
        hops=parts.hops(),
        coalesce=CoalesceArgs(),
        timeouts=TimeoutArgs(profiler_s=0.3, ranker_s=0.3, retention_s=0.3, store_s=5.0),
        telemetry=recorded.telemetry,
    )
    with TestClient(build_http(gateway, admin_token=None), raise_server_exceptions=False) as client:
        yield client


def test_an_answer_is_counted_by_route_arm_stage_and_action(http: TestClient, recorded: Recorded) -> None:
    http.post("/v1/recommend", json={"user_id": "u"})
    recorded.telemetry.flush()
    assert recorded.counters == {
        ("clm_requests", "/v1/recommend", "ok"): 1,
        ("clm_answers", "r1", ""): 1,
        ("clm_stages", "r1", "established"): 1,
        ("clm_actions", "r1", "none"): 1,
    }
    hops = {key[1:] for key in recorded.observed if key[0] == "clm_hop_seconds"}
    assert hops == {(hop, "ok") for hop in ("profiler", "ranker", "retention", "store", "batch")}
    assert recorded.observed["clm_batch_size", "recommend"] == [1]
    assert all(seconds > 0 for seconds in recorded.observed["clm_store_seconds", "log_slates"])


def test_a_degraded_answer_names_its_reasons_and_the_hop_its_outcome(
    http: TestClient, parts: Parts, recorded: Recorded
) -> None:
    parts.trouble |= {"ranker": RuntimeError("broken"), "retention": 9.0}
    parts.newcomers.add("u")
    http.post("/v1/recommend", json={"user_id": "u"})
    recorded.telemetry.flush()
    degraded = {key[2]: n for key, n in recorded.counters.items() if key[0] == "clm_degraded"}
    assert degraded == {"no_history": 1, "ranker_failed": 1, "retention_late": 1}
    assert recorded.counters["clm_actions", "r1", "absent"] == 1
    assert recorded.observed["clm_hop_seconds", "ranker", "failed"]
    assert recorded.observed["clm_hop_seconds", "retention", "late"]


def test_refusals_and_unknown_paths_are_counted_without_the_text_of_the_caller(
    http: TestClient, recorded: Recorded
) -> None:
    http.post("/v1/recommend", json={"user_id": ""})
    http.get("/v1/users/a%2Fb/profile")
    http.get("/no/such/page")
    recorded.telemetry.flush()
    requests = {key[1:]: n for key, n in recorded.counters.items() if key[0] == "clm_requests"}
    assert requests == {
        ("/v1/recommend", "refused"): 1,
        ("/v1/users/{user_id}/profile", "ok"): 1,
        ("other", "refused"): 1,
    }


def test_events_are_counted_by_verdict(http: TestClient, recorded: Recorded) -> None:
    event = {"event_id": "e", "user_id": "u", "event_type": "click", "item_id": "i1"}
    http.post("/v1/events", json={"events": [event, event, {**event, "event_id": "f", "event_type": "kiss"}]})
    recorded.telemetry.flush()
    events = {key[1]: n for key, n in recorded.counters.items() if key[0] == "clm_events"}
    assert events == {"accepted": 1, "duplicate": 1, "rejected": 1}
    assert len(recorded.observed["clm_store_seconds", "append_events"]) == 1


@pytest.mark.parametrize(
    ("status", "said"), [(200, "ok"), (304, "ok"), (404, "refused"), (429, "overloaded"), (503, "failed")]
)
def test_outcomes(status: int, said: str) -> None:
    assert outcome(status) == said


def test_points_from_many_threads_are_all_handed_over_once(recorded: Recorded) -> None:
    def work(_n: int) -> None:
        for _ in range(500):
            recorded.telemetry.count(measures.EVENTS, "accepted")
        recorded.telemetry.flush()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    recorded.telemetry.flush()
    assert recorded.counters["clm_events", "accepted"] == 4000


def test_many_observations_are_thinned_and_keep_their_quantiles(recorded: Recorded) -> None:
    for n in range(20_000):
        recorded.telemetry.observe(measures.BATCH_SIZE, "recommend", value=(n * 7919) % 1000)
    recorded.telemetry.flush()
    values = sorted(recorded.observed["clm_batch_size", "recommend"])
    assert len(values) <= 256
    assert values[len(values) // 2] == pytest.approx(500, abs=150)


def test_a_gauge_keeps_its_last_value_and_tags_must_fit(recorded: Recorded) -> None:
    recorded.telemetry.set(measures.CALIBRATION_ERROR, "r1", "", value=0.5)
    recorded.telemetry.set(measures.CALIBRATION_ERROR, "r1", "", value=0.25)
    recorded.telemetry.flush()
    assert recorded.gauges == {("clm_calibration_error", "r1", ""): 0.25}
    with pytest.raises(AssertionError, match="verdict"):
        recorded.telemetry.count(measures.EVENTS, "accepted", "too many")
