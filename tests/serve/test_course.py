"""Deadlines: what each part may take, and that a request in a hurry costs the others nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from serve_fakes import Parts

from clm_ray.messages import Recommendation
from clm_ray.serve.course import STORE, Course
from clm_ray.serve.telemetry import unrecorded


def test_without_a_deadline_every_part_has_its_own_time() -> None:
    course = Course.of([(None, None)], now=5.0, telemetry=unrecorded())
    assert course.may_take("ranker", 3.0, now=100.0) == 3.0


def test_parts_leave_a_share_of_the_shortest_deadline_for_the_log() -> None:
    course = Course.of([(11.0, 1000), (10.5, 500), (None, None)], now=10.0, telemetry=unrecorded())
    assert course.may_take("ranker", 3.0, now=10.0) == pytest.approx(0.4)
    assert course.may_take("ranker", 0.2, now=10.0) == 0.2
    assert course.may_take(STORE, 3.0, now=10.4) == pytest.approx(0.1)
    assert course.may_take("ranker", 3.0, now=10.45) == 0.0


def test_what_would_be_later_than_the_deadline_is_left_out_and_nobody_elses_answer(
    http: TestClient, parts: Parts
) -> None:
    parts.trouble["ranker"] = 0.15  # within the ranker's own time

    def ask(body: dict[str, object]) -> Recommendation:
        return Recommendation.model_validate_json(http.post("/v1/recommend", json={"user_id": "u", **body}).content)

    with ThreadPoolExecutor(2) as pool:
        hurried, patient = pool.map(ask, [{"deadline_ms": 100}, {}])
    assert hurried.degraded[0] == "ranker_late"
    assert patient.degraded == []


def test_a_deadline_that_is_over_before_the_first_part_still_has_an_answer() -> None:
    course = Course.of([(10.0, 100)], now=10.5, telemetry=unrecorded())
    assert course.may_take("profiler", 5.0, now=10.5) == 0.0
