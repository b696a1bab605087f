"""The pictures of the report: reliability, ROC, learning curve, retention curve. Drawn off-screen (Agg), light and plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from clm_ray.drawing import INK, blank, dress, head
from clm_ray.evaluate.baselines import TITLES
from clm_ray.evaluate.figures import MODEL, RankingFigures
from clm_ray.metrics import calibration, click, survival

COLOURS = {
    "model": "#1f4e9c",
    "popularity": "#c0504d",
    "repurchase": "#d98a1f",
    "means": "#d98a1f",
    "text_logistic": "#4f8f5b",
    "als": "#7d5ba6",
    "item_knn": "#3aa6b9",
    "user_knn": "#8c6d46",
    "recency": "#c0504d",
    "rfm": "#4f8f5b",
    "boosting": "#d98a1f",
}
_POINTS = 400
_MANY_EPOCHS = 25

Scores = Mapping[str, NDArray[np.float32]]


def reliability(path: Path, *, label: NDArray[Any], weight: NDArray[Any], scores: Scores, bins: int, rows: str) -> None:
    """Predicted against observed share of positives, in bins of equal mass; log axes where positives are rare."""
    figure, axes = _figure("Reliability", f"{rows}; bins of equal mass")
    tables = {n: calibration.reliability(label, probability=s, weight=weight, bins=bins) for n, s in scores.items()}
    high = max((float(np.r_[t.predicted_B, t.observed_B].max(initial=0)) for t in tables.values()), default=1.0)
    rare = high < 0.3
    seen = [v for t in tables.values() for v in np.r_[t.predicted_B, t.observed_B] if v > 0]
    low = min(seen, default=1e-4) / 1.5 if rare else 0.0
    high = high * 1.5 if rare else 1.0
    axes.plot([max(low, 0), high], [max(low, 0), high], color=INK, linewidth=1, linestyle=":", label="perfect")
    for name, table in tables.items():
        _line(axes, name, table.predicted_B, table.observed_B, marker="o")
    if rare:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlim(low or None, high)
    axes.set_ylim(low or None, high)
    _finish(figure, axes, path, x="predicted probability", y="observed share of positives")


def roc(path: Path, *, label: NDArray[Any], weight: NDArray[Any], scores: Scores, rows: str) -> None:
    """True against false positive rate, with the AUC of each method."""
    figure, axes = _figure("ROC", rows)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":", label="chance (0.5)")
    for name, score in scores.items():
        false, true = click.roc(label, score=score, weight=weight)
        at = np.linspace(0, 1, _POINTS)
        area = click.auc(label, score=score, weight=weight)
        _line(axes, name, at, np.interp(at, false, true), suffix=f" ({area:.3f})")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    _finish(figure, axes, path, x="false positive rate", y="true positive rate")


def retrieval(path: Path, *, lists: Mapping[str, RankingFigures]) -> None:
    """Share of the taken items among the first k of the whole catalogue's list, at every cut-off k, by method."""
    occasions = max(one.occasions for one in lists.values())
    figure, axes = _figure("Retrieval", f"{occasions:,} occasions, the whole catalogue ranked")
    for name, one in lists.items():
        _line(axes, name, np.array(list(one.recall)), np.array(list(one.recall.values())), marker="o")
    axes.set_xticks(sorted({k for one in lists.values() for k in one.recall}))
    axes.set_ylim(bottom=0)
    _finish(figure, axes, path, x="first k of the list", y="recall@k")


def learning_curve(path: Path, *, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Click loss, the other heads' losses and the validation AUCs by epoch, from training.json."""
    panels = (
        ("click loss, nats", (("train_click_loss", "training"), ("click_log_loss", "validation"))),
        (
            "other losses, nats",
            (("train_retention_loss", "retention, training"), ("train_retrieval_loss", "retrieval, training")),
        ),
        ("AUC", (("click_auc", "click, validation"), ("retention_auc", "retention, validation"))),
    )
    figure = blank(width=7.2, height=8.0)
    grid = figure.subplots(len(panels), 1, sharex=True)
    number = [int(epoch["epoch"]) for epoch in epochs]
    head(grid[0], "Learning curve", "one point per epoch; training losses are those of sampled candidates")
    for axes, (title, curves) in zip(grid, panels, strict=True):
        for (key, label), colour in zip(curves, ("#1f4e9c", "#d98a1f"), strict=True):
            known = [(n, epoch[key]) for n, epoch in zip(number, epochs, strict=True) if epoch.get(key) is not None]
            if known:
                axes.plot(*zip(*known, strict=True), color=colour, marker="o", linewidth=2, label=label)
        dress(axes, x="epoch" if axes is grid[-1] else "", y=title)
    if len(number) < _MANY_EPOCHS:
        grid[-1].set_xticks(number)
    figure.savefig(path)


def retention(
    path: Path, *, back: NDArray[Any], seen: NDArray[Any], days: Sequence[int], predicted: Mapping[str, NDArray[Any]]
) -> None:
    """Share active again by each day: predicted (mean over references) against observed (Kaplan-Meier).

    `back`, `seen` [R] as in clm_ray.metrics.survival; `predicted`: method → [R, B].
    """
    figure, axes = _figure("Retention", f"{len(back):,} references; observed: Kaplan-Meier")
    observed_B = 1 - survival.kaplan_meier(back, seen=seen, bins=len(days))
    axes.plot(days, observed_B, color=INK, marker="D", linewidth=1.5, linestyle="--", label="observed", zorder=3)
    for name, within_RB in predicted.items():
        _line(axes, name, np.array(days), within_RB.mean(0), marker="o")
    axes.set_xscale("log")
    axes.set_xticks(list(days), [str(day) for day in days])
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _finish(figure, axes, path, x="days after the reference (log scale)", y="share of users active again")


def _figure(title: str, subtitle: str) -> tuple[Any, Any]:
    figure = blank(width=7.2, height=5.4)
    axes = figure.subplots()
    head(axes, title, subtitle)
    return figure, axes


def _line(axes: Any, name: str, x: NDArray[Any], y: NDArray[Any], *, marker: str = "", suffix: str = "") -> None:
    axes.plot(
        x,
        y,
        color=COLOURS[name],
        linewidth=2.4 if name == MODEL else 1.5,
        marker=marker,
        markersize=5,
        label=TITLES[name] + suffix,
        zorder=4 if name == MODEL else 2,
    )


def _finish(figure: Any, axes: Any, path: Path, *, x: str, y: str) -> None:
    dress(axes, x=x, y=y)
    figure.savefig(path)
