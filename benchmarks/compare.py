"""Figures of clicks, and differences with their intervals: what `benchmarks.quality` says about predictions.

Shape letters: N rows of the test, in the order of time, user and item.
"""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clm_ray.metrics.bootstrap import Difference, paired_auc, paired_mean
from clm_ray.metrics.calibration import ece
from clm_ray.metrics.click import auc, gauc, log_loss, log_losses

PEERS = Path(__file__).parent / "peers"
COLD_ITEM_EVENTS = 10
COLD_USER_EVENTS = 5
_BETTER = {"auc": 1, "gauc": 1, "cold_items_auc": 1, "log_loss": -1, "ece": -1}

Floats = NDArray[np.float64]


def click_figures(predictions: pa.Table) -> dict[str, float]:
    """AUC, log loss, GAUC, ECE, and the AUC of cold items (fewer than 10 training events) and cold users (fewer than 5 earlier ones)."""
    label, score, weight = (_floats(predictions, name) for name in ("label", "probability", "weight"))
    user = predictions.column("user").to_numpy(zero_copy_only=False)
    cold = {name: _cold(predictions, name) for name in ("items", "users")}
    return {
        "auc": auc(label, score=score, weight=weight),
        "log_loss": log_loss(label, probability=score, weight=weight),
        "gauc": gauc(label, score=score, user=user, weight=weight).value,
        "ece": ece(label, probability=score, weight=weight),
        **{f"cold_{k}_auc": auc(label[at], score=score[at], weight=weight[at]) for k, at in cold.items()},
    }


def differences(predictions: pa.Table, score: Floats, other: Floats) -> dict[str, Any]:
    """`score` less `other` on the rows of `predictions`: AUC, log loss, and AUC of cold items and users; intervals of 95 % over users."""
    everything = np.ones(len(score), bool)
    out: dict[str, Any] = {"auc": _auc(predictions, score, other, everything)}
    label = _floats(predictions, "label")
    out["log_loss"] = _told(
        paired_mean(
            log_losses(label, probability=score),
            value_b=log_losses(label, probability=other),
            user=predictions.column("user").to_numpy(zero_copy_only=False),
            weight=_floats(predictions, "weight"),
        )
    )
    for name in ("items", "users"):
        out[f"cold_{name}_auc"] = _auc(predictions, score, other, _cold(predictions, name))
    return out


def against_lightgbm(rows: str, predictions: pa.Table, score: Floats) -> dict[str, Any]:
    """Mean of the seeds' predictions less LightGBM's mean of three seeds."""
    key = {"ml100k.per_user": "ml100k_user", "ml100k.global": "ml100k_global"}[rows]
    with np.load(PEERS / "lightgbm_test_predictions.npz") as found:
        theirs = {kind: found[f"{key}.{kind}"].astype(np.float64) for kind in ("stream", "kfold")}
    return {kind: differences(predictions, score, other) for kind, other in theirs.items()}


def against_peers(rows: str, figures: dict[str, Any]) -> dict[str, Any]:
    """The best deep peer and the best gradient boosting per figure, and how many seed deviations this model is ahead of each."""
    out: dict[str, Any] = {}
    for kind in ("deep", "trees"):
        for name, sign in _BETTER.items():
            best = max((row for row in peers(rows) if row["kind"] == kind), key=lambda row: sign * float(row[name]))
            ahead = sign * (figures[name] - float(best[name]))
            out.setdefault(kind, {})[name] = {
                "best": best["model"],
                "value": float(best[name]),
                "ahead": ahead,
                "deviations": ahead / figures[f"{name}_sd"],
            }
    return out


def peers(rows: str) -> list[dict[str, str]]:
    """Figures of the peers on the rows of a protocol."""
    with (PEERS / "ml100k.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["rows"] == rows]


def _auc(predictions: pa.Table, score: Floats, other: Floats, at: NDArray[np.bool_]) -> dict[str, float]:
    label, weight = _floats(predictions, "label"), _floats(predictions, "weight")
    user = predictions.column("user").to_numpy(zero_copy_only=False)
    return _told(paired_auc(label[at], score_a=score[at], score_b=other[at], user=user[at], weight=weight[at]))


def _told(difference: Difference) -> dict[str, float]:
    return {k: float(v) for k, v in asdict(difference).items() if k in ("estimate", "low", "high")}


def _cold(predictions: pa.Table, what: str) -> NDArray[np.bool_]:
    name, least = {"items": ("item_events", COLD_ITEM_EVENTS), "users": ("user_events", COLD_USER_EVENTS)}[what]
    at: NDArray[np.bool_] = predictions.column(name).to_numpy() < least
    return at


def _floats(predictions: pa.Table, name: str) -> Floats:
    return np.asarray(predictions.column(name).to_numpy(), np.float64)
