"""What the life-cycle pictures of the data report say, and the tables below them."""

from __future__ import annotations

from collections.abc import Sequence

from clm_ray.config.stages import STAGES
from clm_ray.data.report.life_figures import RfmTable, StageDays

NONE = "–"


def stages(found: StageDays) -> list[str]:
    """The thresholds, and how the table is read."""
    t = found.thresholds
    return [
        f"A user is new for {t['new_days']:g} days from the first activity, at risk after {t['at_risk_days']:.3g} days of silence and churned "
        f"after {t['churned_days']:.3g} (learned from the log's gaps where the recipe does not give them), reactivated for "
        f"{t['reactivated_days']:g} days after a return, and no longer at risk after {t['settled_days']:g} active days.",
        "The first days of a log are a warm-up: whoever was there before it began looks new, and nobody can have churned yet.",
        "The table: of the users in a stage (row), the share found in each stage a day later, over all days.",
    ]


def moves(found: StageDays) -> Sequence[Sequence[str]]:
    """The transition matrix; stages that nobody was in are left out."""
    seen = [stage for stage in STAGES if any(users != 0 for users in found.users[stage])]
    column = {stage: n for n, stage in enumerate(STAGES)}
    rows = [[stage.replace("_", " "), *(_share(found.moves[stage][column[other]]) for other in seen)] for stage in seen]
    return [["from \\ to", *(stage.replace("_", " ") for stage in seen)], *rows]


def rfm(found: RfmTable) -> list[str]:
    """What the points rest on."""
    return [
        f"{found.users:,} users with activity, as of the end of the log: one to five points each for days since the last activity, active "
        "days and spend, cut at quintiles (Hughes, 1994), and the segments that marketing calls by these names.",
        "The segments describe; decisions go by the life-cycle stage and the expected gain.",
    ]


def segments(found: RfmTable) -> Sequence[Sequence[str]]:
    """One row per segment."""
    head = ["segment", "users", "share", "days since active", "active days", "spend"]
    rows = [
        [
            one.name,
            NONE if one.users is None else f"{one.users:,}",
            _share(one.share, digits=1),
            *(NONE if value is None else f"{value:,.1f}" for value in (one.recency_days, one.active_days, one.spend)),
        ]
        for one in found.segments
    ]
    return [head, *rows]


def _share(value: float | None, *, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}%}"
