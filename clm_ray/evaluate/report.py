"""The report: one table with the model beside every baseline, then intervals and slices. Markdown that also reads well as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clm_ray.evaluate.baselines import TITLES
from clm_ray.evaluate.figures import MODEL, ClickFigures, ClickReport, RankingFigures
from clm_ray.evaluate.outputs import NumberFigures
from clm_ray.evaluate.return_sections import return_sections, spend_section
from clm_ray.evaluate.returning import RetentionFigures, RetentionLead, RetentionSlice
from clm_ray.evaluate.spending import SpendFigures
from clm_ray.evaluate.tables import interval, number, table

_HIGHER, _LOWER, _NEITHER = 1, -1, 0


@dataclass(frozen=True)
class Evaluation:
    """Everything that `evaluate` found; `clicks` None without click occasions, `retention`, `ratings` and `spend` empty where the model has no such
    head."""

    run: str
    recipe: str
    dataset: str
    split: str
    clicks: ClickReport | None
    catalogue: Mapping[str, RankingFigures]
    retention: Mapping[int, Mapping[str, RetentionFigures]]
    report_days: Sequence[int]
    ratings: Mapping[str, NumberFigures]
    spend: Mapping[str, SpendFigures]
    ks: Sequence[int]
    notes: Sequence[str]
    retention_slices: Mapping[int, Sequence[RetentionSlice]] = field(default_factory=dict)
    retention_lead: Mapping[int, Mapping[str, RetentionLead]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Row:
    """One figure of every method. `better`: 1 higher, -1 lower, 0 neither. `headline`: a baseline that is better in it is named."""

    title: str
    values: Mapping[str, float]
    better: int
    headline: bool = False


def markdown(found: Evaluation) -> str:
    """The whole report."""
    parts = [f"# Evaluation of run `{found.run}`", _header(found), main_table(found)]
    parts += ["Bold: best of the row. CTR: share of positives. " + _RATE_NOTE]
    if behind := shortfalls(found):
        parts += ["## Where a baseline is ahead", "\n".join(f"- {line}" for line in behind)]
    if found.clicks and found.clicks.comparison:
        parts += ["## Model minus baseline", _comparison_table(found.clicks, k=found.ks[0])]
        parts += ["Difference with a 95 % interval from a paired bootstrap over users (500 resamples)."]
    if found.clicks and found.clicks.slices:
        parts += ["## Slices", _slice_table(found.clicks)]
    parts += return_sections(found.report_days, leads=found.retention_lead, slices=found.retention_slices)
    parts += spend_section(found.spend, days=max(found.report_days, default=0))
    if found.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in found.notes)]
    pictures = ["reliability.png", "roc.png", *(["retrieval.png"] if found.catalogue else []), "learning_curve.png"]
    pictures += ["retention.png"] if found.retention else []
    parts += ["## Pictures", "\n".join(f"![{name.removesuffix('.png')}]({name})" for name in pictures)]
    return "\n\n".join(parts) + "\n"


_RATE_NOTE = "Accuracy, precision, recall and F1 at two thresholds: 0.5, and the observed CTR, the natural threshold when positives are rare."


def _header(found: Evaluation) -> str:
    lines = [f"Recipe `{found.recipe}`, dataset `{found.dataset}`, untouched {found.split} split."]
    if found.clicks:
        c = found.clicks
        rate = c.positives / c.rows if c.rows else math.nan
        lines.append(
            f"Click: {c.rows:,} candidates on {c.occasions:,} occasions of {c.users:,} users, "
            f"{c.positives:,} positive ({rate:.2%})."
        )
        if c.ranking:
            some = c.ranking[MODEL].occasions
            lines.append(f"Ranking of the candidates shown: {some:,} occasions with a positive and a negative.")
    if found.catalogue:
        lines.append(f"Ranking of the whole catalogue: {found.catalogue[MODEL].occasions:,} occasions.")
    for days, methods in found.retention.items():
        if days in found.report_days:
            one = methods[MODEL]
            lines.append(f"Retention, {days} days: {one.rows:,} references, {one.observed:.1%} active again.")
    return "\n".join(lines)


def shortfalls(found: Evaluation) -> list[str]:
    """A sentence for each headline figure by which some baseline is better than the model."""
    lines = []
    for row in (row for row in _rows(found) if row.headline):
        known = {name: value * row.better for name, value in row.values.items() if not math.isnan(value)}
        best = max(known, key=lambda name: known[name], default=MODEL)
        if MODEL in known and known[best] > known[MODEL]:
            reached, model = number(row.values[best]), number(row.values[MODEL])
            lines.append(f"{row.title}: {TITLES[best]} reaches {reached}, the model {model}.")
    return lines


def _rows(found: Evaluation) -> list[_Row]:
    rows: list[_Row] = []
    if found.clicks:
        rows += _click_rows(found.clicks.methods)
        rows += _ranking_rows(found.clicks.ranking, ks=found.ks, of="shown")
    rows += _ranking_rows(found.catalogue, ks=found.ks, of="catalogue")
    for days in found.report_days:
        if days in found.retention:
            rows += _retention_rows(found.retention[days], days=days)
    rows += _number_rows(found.ratings, of="rating")
    spend = f"spend in {max(found.report_days, default=0)} d"
    rows += _number_rows(found.spend, of=spend)
    if found.spend:
        rows += _figure_rows(found.spend, _SPEND_FIGURES, of=spend, headline=False)
    return rows


def main_table(found: Evaluation) -> str:
    """Metrics down, methods across."""
    rows = _rows(found)
    methods = [name for name in TITLES if any(name in row.values for row in rows)]
    lines = [["metric", *(TITLES[name] for name in methods)]]
    lines += [[row.title, *_cells(row, methods)] for row in rows]
    return table(lines)


def _click_rows(methods: Mapping[str, ClickFigures]) -> list[_Row]:
    def row(title: str, better: int, pick: Callable[[ClickFigures], float], *, headline: bool = False) -> _Row:
        return _Row(f"click: {title}", {name: pick(one) for name, one in methods.items()}, better, headline)

    rate = next(iter(methods.values())).observed_ctr if methods else math.nan
    users = next(iter(methods.values())).gauc.users if methods else 0
    rows = [
        row("AUC", _HIGHER, lambda m: m.auc, headline=True),
        row("log loss", _LOWER, lambda m: m.log_loss, headline=True),
        row(f"GAUC ({users:,} users)", _HIGHER, lambda m: m.gauc.value),
        row("average precision", _HIGHER, lambda m: m.average_precision),
        row("Brier", _LOWER, lambda m: m.brier),
        row("ECE", _LOWER, lambda m: m.ece),
        row("predicted CTR", _NEITHER, lambda m: m.predicted_ctr),
        row("observed CTR", _NEITHER, lambda m: m.observed_ctr),
    ]
    for at, title in (("at_half", "0.5"), ("at_base_rate", f"{rate:.3g}")):
        for figure in ("accuracy", "precision", "recall", "f1"):
            name = "F1" if figure == "f1" else figure
            rows.append(row(f"{name} at {title}", _HIGHER, lambda m, at=at, f=figure: getattr(getattr(m, at), f)))  # type: ignore[misc]
    return rows


def _ranking_rows(methods: Mapping[str, RankingFigures], *, ks: Sequence[int], of: str) -> list[_Row]:
    rows = []
    for title, figure in (("NDCG", "ndcg"), ("Recall", "recall"), ("hit rate", "hit_rate")):
        for k in ks:
            values = {name: getattr(one, figure)[k] for name, one in methods.items()}
            rows.append(_Row(f"{of}: {title}@{k}", values, _HIGHER, headline=(figure, k) == ("ndcg", ks[0])))
    rows.append(_Row(f"{of}: MRR", {name: one.mrr for name, one in methods.items()}, _HIGHER))
    for title, figure in (
        ("coverage", "coverage"),
        ("diversity (text)", "vector_diversity"),
        ("diversity (category)", "category_diversity"),
    ):
        for k in ks[:1]:
            values = {name: getattr(one, figure)[k] for name, one in methods.items() if getattr(one, figure)}
            rows.append(_Row(f"{of}: {title}@{k}", values, _NEITHER))
    return [row for row in rows if row.values]


def _retention_rows(methods: Mapping[str, RetentionFigures], *, days: int) -> list[_Row]:
    figures = (
        ("AUC", "auc", _HIGHER),
        ("average precision", "average_precision", _HIGHER),
        ("log loss", "log_loss", _LOWER),
        ("Brier", "brier", _LOWER),
        ("calibration slope", "slope", _NEITHER),
        ("ECE", "ece", _LOWER),
        ("predicted share active", "predicted", _NEITHER),
        ("observed share active", "observed", _NEITHER),
    )
    return _figure_rows(methods, figures, of=f"active in {days} d")


_SPEND_FIGURES = (
    ("Gini", "gini", _HIGHER),
    ("share of the top tenth", "top_share", _HIGHER),
)


def _number_rows(methods: Mapping[str, NumberFigures], *, of: str) -> list[_Row]:
    figures = (
        ("RMSE", "rmse", _LOWER),
        ("mean absolute error", "mae", _LOWER),
        ("predicted / actual sum", "ratio", _NEITHER),
        ("Spearman", "rank", _HIGHER),
    )
    return _figure_rows(methods, figures, of=of) if methods else []


def _figure_rows(
    methods: Mapping[str, Any], figures: Sequence[tuple[str, str, int]], *, of: str, headline: bool = True
) -> list[_Row]:
    """A row for each (title, figure, which way is better); the first one is the headline where there is one."""
    return [
        _Row(
            f"{of}: {title}",
            {name: getattr(one, figure) for name, one in methods.items()},
            better,
            headline=headline and n == 0,
        )
        for n, (title, figure, better) in enumerate(figures)
    ]


def _cells(row: _Row, methods: Sequence[str]) -> list[str]:
    known = {name: value for name, value in row.values.items() if not math.isnan(value)}
    best = None
    if row.better and len(known) > 1:
        best = number(max(known.values()) if row.better > 0 else min(known.values()))
    texts = [number(row.values.get(name, math.nan)) for name in methods]
    return [f"**{text}**" if text == best else text for text in texts]


def _comparison_table(clicks: ClickReport, *, k: int) -> str:
    lines = [["model minus", "AUC", "log loss", f"NDCG@{k}"]]
    for name, one in clicks.comparison.items():
        lines.append([TITLES[name], *(interval(d) for d in (one.auc, one.log_loss, one.ndcg))])
    return table(lines)


def _slice_table(clicks: ClickReport) -> str:
    methods = list(clicks.methods)
    lines = [
        ["slice", "rows", "positives", *(f"{figure}, {TITLES[m]}" for figure in ("AUC", "log loss") for m in methods)]
    ]
    for one in clicks.slices:
        values = [*(number(one.auc[m]) for m in methods), *(number(one.log_loss[m]) for m in methods)]
        lines.append([one.name, f"{one.rows:,}", f"{one.positives:,}", *values])
    return table(lines)
