"""The life cycle in the data report: stage sizes by day, how users go from stage to stage, and RFM segments.

`min_users`: a figure of some but fewer users is None: hidden.

Shape letters: D days, S states (see lifecycle.flows), U users.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from clm_ray.config.stages import STAGES, Stage
from clm_ray.data.life_counts import LifeCounts
from clm_ray.lifecycle.flows import OUTSIDE
from clm_ray.lifecycle.rfm import SEGMENTS, cuts_of, points, segments
from clm_ray.lifecycle.stages import Thresholds


@dataclass(frozen=True)
class StageDays:
    """Users in each stage at 00:00 UTC of each day from `first` on. moves: share of the users of a stage (row) who are in each stage (column)
    a day later, over all days; None where nobody was, or too few. thresholds: as learned or given, days."""

    first: str
    thresholds: Mapping[str, float]
    users: Mapping[Stage, tuple[int | None, ...]]
    moves: Mapping[Stage, tuple[float | None, ...]]


@dataclass(frozen=True)
class Segment:
    """Users of one RFM segment: how many, their share, and means of days since the last activity, active days, spend."""

    name: str
    users: int | None
    share: float | None
    recency_days: float | None
    active_days: float | None
    spend: float | None


@dataclass(frozen=True)
class RfmTable:
    """users: all with activity. cuts: measure → upper ends of the first four fifths."""

    users: int
    cuts: Mapping[str, tuple[float, ...]]
    segments: tuple[Segment, ...]


def stage_days(counts: LifeCounts, thresholds: Thresholds, *, min_users: int = 1) -> StageDays | None:
    """None where nobody was ever in a stage."""
    sizes = counts.flows.sizes()[:, :OUTSIDE]
    if not sizes.any():
        return None
    moves = counts.flows.matrix()
    hidden_SS = (counts.users_SS > 0) & (counts.users_SS < min_users)
    rows = {
        stage: tuple(
            None if np.isnan(moves[a, b]) or hidden_SS[a, b] else round(float(moves[a, b]), 6)
            for b in range(len(STAGES))
        )
        for a, stage in enumerate(STAGES)
    }
    users = {
        stage: tuple(None if 0 < n < min_users else int(n) for n in sizes[:, s].tolist())
        for s, stage in enumerate(STAGES)
    }
    begin = (dt.date(1970, 1, 1) + dt.timedelta(days=counts.flows.first_day)).isoformat()
    return StageDays(begin, thresholds.to_dict(), users, rows)


def rfm_table(counts: LifeCounts, *, min_users: int = 1) -> RfmTable | None:
    """Points and segments as of the end of the log, over the whole log; None where nobody was active."""
    recency_U, frequency_U, money_U = counts.rfm_U3.T
    if len(recency_U) < max(min_users, 1):
        return None
    cuts = cuts_of(recency_U, frequency_U, money_U, users_G=np.ones(len(recency_U), np.int64))
    segment_U = segments(points(recency_U, frequency_U, money_U, cuts=cuts))
    found = []
    for code, name in enumerate(SEGMENTS):
        mine = counts.rfm_U3[segment_U == code]
        if 0 < len(mine) < min_users:
            found.append(Segment(name, None, None, None, None, None))
            continue
        means = [round(float(value), 4) for value in mine.mean(0)] if len(mine) else [None] * 3
        found.append(Segment(name, len(mine), round(len(mine) / len(recency_U), 6), *means))
    rounded = {name: tuple(round(cut, 4) for cut in ends) for name, ends in asdict(cuts).items()}
    return RfmTable(len(recency_U), rounded, tuple(found))
