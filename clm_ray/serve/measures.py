"""Every metric that the endpoint exports, in one table: what dashboards, alerts and tests are checked against.

Ray puts `ray_` in front of a name and adds its own labels (node, worker; in a replica also deployment, replica, application).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


@dataclass(frozen=True)
class Measure:
    """One metric. `tags`: its labels; `bounds`: upper bounds of a histogram's buckets."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    tags: tuple[str, ...]
    text: str
    bounds: tuple[float, ...] = ()

    @property
    def exported(self) -> tuple[str, ...]:
        """The names that Prometheus reads."""
        if self.kind == "histogram":
            return tuple(f"ray_{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (f"ray_{self.name}_total",) if self.kind == "counter" else (f"ray_{self.name}",)


REQUESTS = Measure(
    "clm_requests",
    "counter",
    ("route", "outcome"),
    "HTTP requests by route and outcome: ok, refused (4xx), overloaded (429), failed (5xx)",
)
HOP_SECONDS = Measure(
    "clm_hop_seconds",
    "histogram",
    ("hop", "outcome"),
    "Time of one hop of a batch, by hop (profiler, ranker, retention, store; batch: all of it) and outcome (ok, late, failed)",
    _SECONDS,
)
BATCH_SIZE = Measure("clm_batch_size", "histogram", ("what",), "Requests that travel in one batch", _ROWS)
ANSWERS = Measure(
    "clm_answers", "counter", ("release", "arm"), "Recommendations answered, by release and arm of a split"
)
DEGRADED = Measure("clm_degraded", "counter", ("release", "reason"), "Degraded recommendations, by reason")
STAGES = Measure("clm_stages", "counter", ("release", "stage"), "Recommendations by life-cycle stage of the user")
ACTIONS = Measure(
    "clm_actions",
    "counter",
    ("release", "action"),
    "Recommendations by retention action in force (none is one; absent: no decision)",
)
EVENTS = Measure("clm_events", "counter", ("verdict",), "Events handed in: accepted, duplicate, rejected")
STORE_SECONDS = Measure(
    "clm_store_seconds",
    "histogram",
    ("operation",),
    "Time of one call of the store, waiting for its thread included",
    _SECONDS,
)
CACHE = Measure("clm_cache", "counter", ("cache", "result"), "Look-ups in a cache of the endpoint: hit or miss")
SCORES = Measure(
    "clm_scores", "counter", ("release", "candidates"), "Candidates scored: given by the caller, or retrieved"
)
PREDICTION_DRIFT = Measure(
    "clm_prediction_drift",
    "gauge",
    ("release", "candidates"),
    "Population stability index of the scores of the last hour against the release's reference scores",
)
OUTCOME_SLATES = Measure(
    "clm_outcome_slates",
    "gauge",
    ("release", "arm"),
    "Slates whose outcome is known, in the window of the last look at outcomes",
)
OUTCOME_CTR = Measure(
    "clm_outcome_ctr", "gauge", ("release", "arm"), "Share of shown items that were answered positively"
)
OUTCOME_PREDICTED = Measure(
    "clm_outcome_predicted",
    "gauge",
    ("release", "arm", "bin"),
    "Mean click probability of the shown items, by bin of equal count",
)
OUTCOME_OBSERVED = Measure(
    "clm_outcome_observed",
    "gauge",
    ("release", "arm", "bin"),
    "Share of positive answers to the shown items of the same bin",
)
CALIBRATION_ERROR = Measure(
    "clm_calibration_error",
    "gauge",
    ("release", "arm"),
    "Expected calibration error of the shown items: mean |predicted - observed| of the bins",
)
CALIBRATION_RATIO = Measure(
    "clm_calibration_ratio",
    "gauge",
    ("release", "arm"),
    "Positive answers by the sum of the click probabilities of what was shown; 1 is right",
)
OUTCOME_LOOKS = Measure(
    "clm_outcome_looks", "counter", ("result",), "Looks at the outcomes in the store: done or failed"
)
SHADOW = Measure(
    "clm_shadow",
    "counter",
    ("release", "result"),
    "Answers that the shadow release should score: logged, dropped (behind), failed",
)

MEASURES = {
    measure.name: measure
    for measure in (
        REQUESTS,
        HOP_SECONDS,
        BATCH_SIZE,
        ANSWERS,
        DEGRADED,
        STAGES,
        ACTIONS,
        EVENTS,
        STORE_SECONDS,
        CACHE,
        SCORES,
        PREDICTION_DRIFT,
        OUTCOME_SLATES,
        OUTCOME_CTR,
        OUTCOME_PREDICTED,
        OUTCOME_OBSERVED,
        CALIBRATION_ERROR,
        CALIBRATION_RATIO,
        OUTCOME_LOOKS,
        SHADOW,
    )
}
"""All of them, by name."""
