"""Are groups of users treated alike? Action rate, uplift and calibration by group, and which items each group is shown.

A group is one value of one configured column. Compared are groups with enough users, within a life-cycle stage where what is done depends
on the stage. The action rate is the mean probability of the final distributions, not the drawn actions: what the policy meant to do, without
the noise of the draw. Differences of uplift and calibration count only beyond what chance explains (1.96 standard errors of the
difference). A difference is a question to people, not a proof of a wrong: docs/ethics.md.

Shape letters: none; everything is by record.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from clm_ray.config.guards import FairnessConfig
from clm_ray.config.policy import NO_ACTION, Stage
from clm_ray.policy.guardrails import EVERYTHING, Finding
from clm_ray.policy.uplift import Z95, Outcome, observe

PREFIX = "fairness_"
"""Guardrails of fairness are called fairness_COLUMN."""
UNKNOWN = "(unknown)"
"""Group of users without a value in the column."""
Metric = Literal["action_rate", "uplift", "calibration"]


@dataclass(frozen=True)
class Treated:
    """One decision outside or inside the holdout. probabilities: of its final distribution; forecast: None where there was none."""

    user_id: str
    stage: Stage
    holdout: bool
    columns: Mapping[str, str | float]
    probabilities: Mapping[str, float]
    forecast: float | None
    outcome: Outcome | None


@dataclass(frozen=True)
class GroupFigure:
    """One figure of one group. error: its standard error, 0 for what is known exactly. action, stage: * for all."""

    column: str
    group: str
    metric: Metric
    action: str
    stage: str
    users: int
    value: float
    error: float


@dataclass(frozen=True)
class Gap:
    """The largest difference between two groups that are large enough. beyond: what is left of it beyond chance."""

    column: str
    metric: Metric
    action: str
    stage: str
    low_group: str
    high_group: str
    difference: float
    beyond: float
    bound: float

    @property
    def broken(self) -> bool:
        """Whether it is more than the recipe allows."""
        return self.beyond > self.bound


def figures(rows: Sequence[Treated], *, config: FairnessConfig) -> list[GroupFigure]:
    """Every figure of every group of every configured column."""
    result: list[GroupFigure] = []
    actions = sorted({name for row in rows for name in row.probabilities} - {NO_ACTION})
    for column in config.columns:
        groups: dict[str, list[Treated]] = defaultdict(list)
        for row in rows:
            groups[str(row.columns.get(column, UNKNOWN))].append(row)
        for group, members in sorted(groups.items()):
            result += _action_rates(column, group, members, actions)
            result += _uplifts(column, group, members)
            result += _calibration(column, group, members)
    return result


def gaps(found: Iterable[GroupFigure], *, config: FairnessConfig) -> list[Gap]:
    """The largest gap of each column, metric, action and stage, among groups of at least `min_users` users with a known value."""
    bounds: dict[Metric, float] = {
        "action_rate": config.max_action_gap,
        "uplift": config.max_uplift_gap,
        "calibration": config.max_calibration_gap,
    }
    alike: dict[tuple[str, Metric, str, str], list[GroupFigure]] = defaultdict(list)
    for one in found:
        if one.users >= config.min_users:
            alike[one.column, one.metric, one.action, one.stage].append(one)
    result = []
    for (column, metric, action, stage), members in sorted(alike.items()):
        pairs = [(a, b) for a in members for b in members if a.value < b.value]
        if not pairs:
            continue
        low, high = max(pairs, key=lambda pair: _beyond(*pair))
        beyond = _beyond(low, high)
        result.append(
            Gap(column, metric, action, stage, low.group, high.group, high.value - low.value, beyond, bounds[metric])
        )
    return result


def findings(found: Iterable[Gap]) -> list[Finding]:
    """The broken gaps as guardrails: that of an action's rate or uplift stops the action, that of calibration everything."""
    return [
        Finding(
            guardrail=PREFIX + gap.column,
            action=EVERYTHING if gap.metric == "calibration" else gap.action,
            value=gap.difference,
            bound=gap.bound,
            rows=0,
            stops=True,
            text=f"{gap.metric} differs by {gap.difference:.3f} between {gap.column} {gap.low_group} and {gap.high_group} in stage {gap.stage} "
            f"({gap.beyond:.3f} beyond chance; bound {gap.bound:g})",
        )
        for gap in found
        if gap.broken
    ]


def gap_subject(guardrail: str) -> tuple[str, str]:
    """Kind and subject of the approval that lets the gaps of a guardrail's column be."""
    return "group_gap", f"column={guardrail.removeprefix(PREFIX)}"


@dataclass(frozen=True)
class Exposure:
    """What a group is shown. shares: category → share of its attention, position p counting 1 / log2(p + 1); distance: to that of all
    groups together, half the sum of absolute differences (0 alike, 1 nothing in common)."""

    column: str
    group: str
    users: int
    shares: Mapping[str, float]
    distance: float


def exposures(
    shown: Iterable[tuple[str, Sequence[Sequence[str]]]],
    *,
    groups: Mapping[str, Mapping[str, str | float]],
    config: FairnessConfig,
) -> list[Exposure]:
    """Exposure of item categories by group. `shown`: (user, categories of each item of a slate, best place first); `groups`: user → columns."""
    slates = [(user, slate) for user, slate in shown if user in groups]
    everybody = _shares(slate for _, slate in slates)
    result = []
    for column in config.columns:
        of_group: dict[str, list[Sequence[Sequence[str]]]] = defaultdict(list)
        users: dict[str, set[str]] = defaultdict(set)
        for user, slate in slates:
            group = str(groups[user].get(column, UNKNOWN))
            of_group[group].append(slate)
            users[group].add(user)
        for group, members in sorted(of_group.items()):
            shares = _shares(members)
            distance = sum(abs(shares.get(name, 0.0) - everybody.get(name, 0.0)) for name in {*shares, *everybody}) / 2
            result.append(Exposure(column, group, len(users[group]), shares, distance))
    return result


def hide_small(found: Iterable[GroupFigure], *, least: int) -> list[GroupFigure]:
    """Figures of groups with fewer users than `least` without their value (k-anonymity)."""
    return [one if one.users >= least else replace(one, value=math.nan, error=math.nan) for one in found]


def _shares(slates: Iterable[Sequence[Sequence[str]]]) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for slate in slates:
        for place, categories in enumerate(slate, start=1):
            for name in categories:
                total[name] += 1 / math.log2(place + 1) / len(categories)
    whole = sum(total.values())
    return {name: value / whole for name, value in sorted(total.items())} if whole else {}


def _beyond(low: GroupFigure, high: GroupFigure) -> float:
    return max(high.value - low.value - Z95 * math.hypot(low.error, high.error), 0.0)


def _action_rates(column: str, group: str, members: Sequence[Treated], actions: Sequence[str]) -> list[GroupFigure]:
    """Mean probability of each action by stage, among users outside the holdout; an action that is not feasible has probability 0."""
    by_stage: dict[Stage, list[Treated]] = defaultdict(list)
    for one in members:
        if not one.holdout:
            by_stage[one.stage].append(one)
    result = []
    for stage, rows in sorted(by_stage.items()):
        users = len({one.user_id for one in rows})
        for action in actions:
            rate = sum(one.probabilities.get(action, 0.0) for one in rows) / len(rows)
            result.append(GroupFigure(column, group, "action_rate", action, stage, users, rate, 0.0))
    return result


def _uplifts(column: str, group: str, members: Sequence[Treated]) -> list[GroupFigure]:
    outcomes = [one.outcome for one in members if one.outcome is not None]
    result = []
    for action in sorted({one.action for one in outcomes} - {NO_ACTION}):
        seen = observe(outcomes, action=action)
        if seen is not None:
            users = min(seen.treated, seen.control)
            error = math.sqrt(seen.variance)
            result.append(GroupFigure(column, group, "uplift", action, EVERYTHING, users, seen.difference, error))
    return result


def _calibration(column: str, group: str, members: Sequence[Treated]) -> list[GroupFigure]:
    """Mean forecast less the share seen active, of decisions on which nothing was done; errors are clustered by user."""
    errors: dict[str, list[float]] = defaultdict(list)
    for one in members:
        if one.outcome is not None and one.forecast is not None and one.outcome.action == NO_ACTION:
            errors[one.user_id].append(one.forecast - float(one.outcome.active))
    count = sum(len(rows) for rows in errors.values())
    if not count:
        return []
    mean = sum(sum(rows) for rows in errors.values()) / count
    spread = math.sqrt(sum(sum(e - mean for e in rows) ** 2 for rows in errors.values())) / count
    return [GroupFigure(column, group, "calibration", EVERYTHING, EVERYTHING, len(errors), mean, spread)]
