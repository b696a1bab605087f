"""Sections of the report on who comes back and what they spend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clm_ray.evaluate.baselines import TITLES
from clm_ray.evaluate.returning import RetentionLead, RetentionSlice
from clm_ray.evaluate.spending import SpendFigures
from clm_ray.evaluate.tables import interval, number, table


def return_sections(
    report_days: Sequence[int],
    *,
    leads: Mapping[int, Mapping[str, RetentionLead]],
    slices: Mapping[int, Sequence[RetentionSlice]],
) -> list[str]:
    """Who comes back: the lead over each baseline, then every method by stage and group."""
    parts = []
    for days in report_days:
        if lead := leads.get(days):
            lines = [["model minus", "AUC", "Brier"]]
            lines += [[TITLES[name], interval(one.auc), interval(one.brier)] for name, one in lead.items()]
            parts += [f"## Active within {days} days: model minus baseline", table(lines)]
            parts += ["95 % interval from a paired bootstrap over users. Brier: below 0 the model is better."]
        if some := slices.get(days):
            parts += [f"## Active within {days} days, by stage and group", _return_table(some)]
    return parts


def _return_table(slices: Sequence[RetentionSlice]) -> str:
    lines = [["slice", "references", "active", "method", "AUC", "average precision", "Brier", "slope", "ECE"]]
    for one in slices:
        for name, m in one.methods.items():
            values = (m.auc, m.average_precision, m.brier, m.slope, m.ece)
            lines.append(
                [one.name, f"{one.rows:,}", f"{m.observed:.1%}", TITLES[name], *(number(value) for value in values)]
            )
    return table(lines)


def spend_section(spend: Mapping[str, SpendFigures], *, days: int) -> list[str]:
    """Predicted beside actual spend, by tenths of the prediction; nothing without a value head."""
    return [f"## Expected spend in {days} days, by tenths of the prediction", _tenth_table(spend)] if spend else []


def _tenth_table(spend: Mapping[str, SpendFigures]) -> str:
    lines = [["tenth", *(f"{TITLES[name]}: {which}" for name in spend for which in ("predicted", "actual"))]]
    for n in range(max(len(one.tenths) for one in spend.values())):
        rows = [one.tenths[n] for one in spend.values()]
        lines.append([f"{n + 1}", *(f"{value:,.2f}" for row in rows for value in (row.predicted, row.actual))])
    return table(lines)
