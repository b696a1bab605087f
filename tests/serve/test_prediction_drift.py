"""Prediction drift at the ranker: which scores are counted, since when, and from how many on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from recorded import Recorded

from clm_ray.metrics.scores import ScoreReference, count_scores
from clm_ray.serve.drift import LEAST_REQUESTS, SLOT_S, SLOTS, ScoreWatch

RANDOM = np.random.default_rng(3)


def scores(mean: float, n: int = 50) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-RANDOM.normal(mean, 1.0, n)))).astype(np.float32)


class Watched:
    """A watch with its own clock, over a release that was expected to score around logit -3."""

    def __init__(self) -> None:
        self.recorded = Recorded()
        self.time = 0.0
        expected = count_scores(scores(-3, 20_000))
        reference = ScoreReference("valid", 100, {"given": expected, "retrieved": np.zeros_like(expected)})
        self.watch = ScoreWatch(
            Path("releases"),
            telemetry=self.recorded.telemetry,
            now=lambda: self.time,
            open_reference=lambda folder: reference if folder == Path("releases/r1") else None,
        )

    def drift(self, release: str = "r1", kind: str = "given") -> float | None:
        self.recorded.telemetry.flush()
        return self.recorded.gauges.get(("clm_prediction_drift", release, kind))


def test_nothing_is_said_before_there_are_enough_requests() -> None:
    watched = Watched()
    for _ in range(LEAST_REQUESTS - 1):
        watched.watch.add("r1", scores=[scores(-3)], given=[True])
    assert watched.drift() is None
    watched.watch.add("r1", scores=[scores(-3)], given=[True])
    assert watched.drift() is not None


def test_expected_scores_do_not_drift_and_others_do() -> None:
    same, other = Watched(), Watched()
    same.watch.add("r1", scores=[scores(-3) for _ in range(LEAST_REQUESTS)], given=[True] * LEAST_REQUESTS)
    other.watch.add("r1", scores=[scores(-1) for _ in range(LEAST_REQUESTS)], given=[True] * LEAST_REQUESTS)
    assert (same.drift() or 0) < 0.1
    assert (other.drift() or 0) > 0.25


def test_given_and_retrieved_candidates_are_kept_apart() -> None:
    watched = Watched()
    for _ in range(LEAST_REQUESTS):
        watched.watch.add("r1", scores=[scores(-3), scores(2)], given=[True, False])
    assert (watched.drift() or 1) < 0.1
    assert watched.drift(kind="retrieved") is None, "the reference has none of these"
    assert watched.recorded.counters["clm_scores", "r1", "retrieved"] == 50 * LEAST_REQUESTS


def test_what_is_older_than_the_window_no_longer_counts() -> None:
    watched = Watched()
    watched.watch.add("r1", scores=[scores(3) for _ in range(LEAST_REQUESTS)], given=[True] * LEAST_REQUESTS)
    assert (watched.drift() or 0) > 0.25
    watched.time = SLOT_S * SLOTS
    watched.watch.add("r1", scores=[scores(-3) for _ in range(LEAST_REQUESTS)], given=[True] * LEAST_REQUESTS)
    assert (watched.drift() or 1) < 0.1


def test_a_release_without_a_reference_is_served_all_the_same() -> None:
    watched = Watched()
    watched.watch.add("old", scores=[scores(-3)] * LEAST_REQUESTS, given=[True] * LEAST_REQUESTS)
    assert watched.drift("old") is None
    assert watched.recorded.counters["clm_scores", "old", "given"] == 50 * LEAST_REQUESTS
