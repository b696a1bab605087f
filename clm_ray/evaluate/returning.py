"""Figures of who comes back: every method, over all references and by life-cycle stage and group of users, and the model's lead.

Computed from `retention_predictions.parquet` alone (and the user table for groups), so that anyone can compute them again.

Shape letters: R references at one horizon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clm_ray.config.stages import STAGES
from clm_ray.evaluate.figures import MODEL, codes
from clm_ray.metrics import calibration, click
from clm_ray.metrics.bootstrap import Difference, paired_aucs, paired_mean

RETENTION_BASELINES = ("recency", "rfm", "boosting")
COLUMNS = {MODEL: "probability", **{name: name for name in RETENTION_BASELINES}}
"""Method → its column in the retention predictions."""
UNKNOWN = "unknown"
"""The group of users without a value."""


@dataclass(frozen=True)
class RetentionFigures:
    """One method at one horizon, on references that the log covers that far. slope: calibration slope, 1 is right; below 1 the chances
    are too far apart."""

    rows: int
    auc: float
    average_precision: float
    log_loss: float
    brier: float
    slope: float
    ece: float
    predicted: float
    observed: float


@dataclass(frozen=True)
class RetentionSlice:
    """Figures of the references in one stage, or of the users of one group."""

    name: str
    rows: int
    users: int
    methods: Mapping[str, RetentionFigures]


@dataclass(frozen=True)
class RetentionLead:
    """Model minus one baseline, with intervals over users. Brier: below 0 is better."""

    auc: Difference
    brier: Difference


@dataclass(frozen=True)
class ReturnReport:
    """One horizon."""

    methods: Mapping[str, RetentionFigures]
    slices: Sequence[RetentionSlice]
    lead: Mapping[str, RetentionLead]


@dataclass(frozen=True)
class Asked:
    """Rows of one horizon as arrays. group_R: column → each user's value."""

    outcome_R: NDArray[np.float64]
    user_R: NDArray[np.int64]
    stage_R: NDArray[np.object_]
    scores: Mapping[str, NDArray[np.float64]]
    group_R: Mapping[str, NDArray[np.object_]]


def return_report(
    predictions: pa.Table,
    *,
    bins: int,
    seed: int = 0,
    groups: Mapping[str, Mapping[str, str]] | None = None,
    min_group: int = 1,
) -> dict[int, ReturnReport]:
    """Horizon in days → its figures. `bins`: of the calibration error. `groups`: column → user → value. Slices of fewer than `min_group`
    users are left out. References that the log (or a treatment, see `retention.treatments`) does not let follow to the horizon are left out too."""
    known = predictions.filter(pc.invert(predictions.column("censored")))
    result = {}
    for days in sorted(pc.unique(known.column("horizon_days")).to_pylist()):
        asked = _asked(known.filter(pc.equal(known.column("horizon_days"), days)), groups or {})
        result[days] = ReturnReport(
            methods=method_figures(asked.outcome_R, asked.scores, bins=bins),
            slices=_slices(asked, bins=bins, min_group=min_group),
            lead=leads(asked.outcome_R, asked.scores, user_R=asked.user_R, seed=seed),
        )
    return result


def _asked(rows: pa.Table, groups: Mapping[str, Mapping[str, str]]) -> Asked:
    names = {method: column for method, column in COLUMNS.items() if column in rows.column_names}
    users = rows.column("user").to_pylist() if groups else []
    return Asked(
        rows.column("outcome").to_numpy().astype(np.float64),
        codes(rows.column("user")),
        np.asarray(rows.column("stage").to_pylist(), object),
        {method: rows.column(column).to_numpy().astype(np.float64) for method, column in names.items()},
        {name: np.asarray([of.get(user, UNKNOWN) for user in users], object) for name, of in groups.items()},
    )


def method_figures(
    outcome_R: NDArray[np.float64], scores: Mapping[str, NDArray[np.float64]], *, bins: int
) -> dict[str, RetentionFigures]:
    """Figures of each method's probabilities."""
    return {name: _figures(outcome_R, p_R, bins=bins) for name, p_R in scores.items()}


def _figures(outcome: NDArray[np.float64], probability: NDArray[np.float64], *, bins: int) -> RetentionFigures:
    return RetentionFigures(
        rows=len(outcome),
        auc=click.auc(outcome, score=probability),
        average_precision=click.average_precision(outcome, score=probability),
        log_loss=click.log_loss(outcome, probability=probability),
        brier=click.brier(outcome, probability=probability),
        slope=calibration.recalibration(outcome, probability=probability).slope,
        ece=calibration.ece(outcome, probability=probability, bins=bins),
        predicted=click.mean(probability),
        observed=click.mean(outcome),
    )


def _slices(asked: Asked, *, bins: int, min_group: int) -> list[RetentionSlice]:
    masks = [(f"stage {stage}", asked.stage_R == stage) for stage in STAGES]
    for column, value_R in asked.group_R.items():
        masks += [(f"{column} {value}", value_R == value) for value in sorted(set(value_R.tolist()))]
    found = []
    for name, mask_R in masks:
        users = len(np.unique(asked.user_R[mask_R]))
        if users and users >= min_group:
            scores = {method: p_R[mask_R] for method, p_R in asked.scores.items()}
            figures = method_figures(asked.outcome_R[mask_R], scores, bins=bins)
            found.append(RetentionSlice(name, int(mask_R.sum()), users, figures))
    return found


def leads(
    outcome_R: NDArray[np.float64],
    scores: Mapping[str, NDArray[np.float64]],
    *,
    user_R: NDArray[np.int64],
    seed: int = 0,
) -> dict[str, RetentionLead]:
    """The model's lead over every other method, from a paired bootstrap over users."""
    others = {name: p_R for name, p_R in scores.items() if name != MODEL}
    areas = paired_aucs(outcome_R, score=scores[MODEL], others=others, user=user_R, seed=seed)
    error_R = (scores[MODEL] - outcome_R) ** 2
    return {
        name: RetentionLead(areas[name], paired_mean(error_R, value_b=(p_R - outcome_R) ** 2, user=user_R, seed=seed))
        for name, p_R in others.items()
    }
