"""Life-cycle stages: who a user is at one moment, from the times of their activity alone.

    prospect       no activity yet
    churned        silent for at least `churned_days`
    at_risk        silent for at least `at_risk_days`
    reactivated    active, and came back after a churn less than `reactivated_days` ago
    at_risk        active again after such a silence, but on fewer than `settled_days` days (UTC) since
    new            active, and the first activity is less than `new_days` ago
    established    active otherwise

The first line that fits, read downward, is the stage, so there is exactly one. Silence is the time since the last activity strictly
before the moment asked about.

Hysteresis: what takes days to begin takes days to end. One day of activity undoes neither a churn, after which a user is watched as
reactivated, nor a risk, which ends with the second day of activity (`settled_days`) within `at_risk_days` of the one before. So a user
whose visits lie about `at_risk_days` apart stays at risk, and does not swing to and fro with every visit. The same
function replays a year offline and answers online.

Shape letters: N activities of one user, oldest first. Q moments asked about. G gaps. A activities of all users.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.lifecycle import LifecycleConfig
from clm_ray.config.policy import STAGES, Stage
from clm_ray.errors import ConfigError
from clm_ray.schema import DAY_US

FALLBACK_AT_RISK_DAYS = 28.0
"""`at_risk_days` of a log in which nobody was ever active on two days."""
FALLBACK_CHURNED_DAYS = 91.0
"""`churned_days` of such a log."""

_EVER_US = 2**60
"""Longer than any log: a threshold beyond it is never reached."""

CODE: dict[Stage, int] = {stage: code for code, stage in enumerate(STAGES)}
"""Stage → its position in STAGES, which `stages_at` returns."""


@dataclass(frozen=True)
class Thresholds:
    """When stages begin and end, days. `churned_days` > `at_risk_days` > 0. `settled_days`: a number of active days, at least 1."""

    new_days: float
    at_risk_days: float
    churned_days: float
    reactivated_days: float
    settled_days: int = 2

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ConfigError("must be positive", field=f"lifecycle.{name}", value=value, fix="give days > 0")
        if not self.churned_days > self.at_risk_days:
            raise ConfigError(
                f"must be more than at_risk_days ({self.at_risk_days:g})",
                field="lifecycle.churned_days",
                value=self.churned_days,
                fix="raise churned_days or lower at_risk_days",
            )

    def to_dict(self) -> dict[str, float]:
        """Plain data, for a release's JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Thresholds:
        """The inverse of `to_dict`. Raises ConfigError when a key is missing, unknown or not a number of days.

        Releases and datasets made before there was `settled_days` behave as they did: one active day ends a risk.
        """
        given = {"settled_days": 1, **raw}
        names = list(Thresholds.__dataclass_fields__)
        if set(given) != set(names):
            raise ConfigError(
                "does not hold the five thresholds", field="lifecycle", value=sorted(raw), fix=f"give {names}"
            )
        days = {name: float(given[name]) for name in names if name != "settled_days"}
        return Thresholds(**days, settled_days=int(given["settled_days"]))


def active_day_gaps(time_A: NDArray[np.int64], *, user_A: NDArray[np.int32]) -> NDArray[np.int64]:
    """Days between consecutive active days (UTC) of each user: int64 [G], each at least 1; activities sorted by user and time. What thresholds are
    learned from."""
    gap = np.diff(time_A // DAY_US)[user_A[1:] == user_A[:-1]]
    return gap[gap > 0]


def learn_thresholds(
    gap_days_G: NDArray[np.int64], count_G: NDArray[np.int64], *, config: LifecycleConfig
) -> Thresholds:
    """Thresholds from the gaps between active days of all users of the training period: distinct gaps, days, rising, and how often each occurred.

    Whoever stays away longer than the `at_risk_quantile` of all gaps is unusually late; longer than the `churned_quantile`,
    gone. Values set in `config` win over learned ones. A learned value that does not fit the other (churned_days ≤ at_risk_days) is
    moved: churned_days to twice at_risk_days, or at_risk_days to half a given churned_days.
    Raises ConfigError when both are given and contradict each other.
    """
    if len(gap_days_G):
        at_risk = _quantile(gap_days_G, count_G, config.at_risk_quantile)
        churned = _quantile(gap_days_G, count_G, config.churned_quantile)
    else:
        at_risk, churned = FALLBACK_AT_RISK_DAYS, FALLBACK_CHURNED_DAYS
    at_risk = at_risk if config.at_risk_days is None else config.at_risk_days
    churned = churned if config.churned_days is None else config.churned_days
    if churned <= at_risk:
        if config.churned_days is None:
            churned = 2 * at_risk
        elif config.at_risk_days is None:
            at_risk = churned / 2
    return Thresholds(config.new_days, at_risk, churned, config.reactivated_days, config.settled_days)


def _quantile(value_G: NDArray[np.int64], count_G: NDArray[np.int64], share: float) -> float:
    """As `numpy.quantile` of the values, each as often as it occurred."""
    until_G = np.cumsum(count_G)
    place = share * (int(until_G[-1]) - 1)
    below, above = value_G[np.searchsorted(until_G, [np.floor(place), np.ceil(place)], side="right")].tolist()
    return float(below + (above - below) * (place % 1))


def stages_at(
    activity_time_N: NDArray[np.int64], time_Q: NDArray[np.int64], *, thresholds: Thresholds
) -> NDArray[np.int8]:
    """Stages of one user at many moments, as positions in STAGES, int8 [Q].

    `activity_time_N`: µs, sorted; `time_Q`: µs, any order. The stage at t depends only on activity strictly before t.
    """
    code_Q = np.full(len(time_Q), CODE["prospect"], np.int8)
    if not len(activity_time_N):
        return code_Q
    past_Q = np.searchsorted(activity_time_N, time_Q, side="left")
    known_Q = past_Q > 0
    time = np.asarray(time_Q)[known_Q]
    last = past_Q[known_Q] - 1
    silence = time - activity_time_N[last]
    tenure = time - activity_time_N[0]
    returned = _returns(activity_time_N, thresholds.churned_days)[last]
    since_return = time - activity_time_N[returned]
    # From the last rule to the first, which counts most.
    code = np.where(tenure < _us(thresholds.new_days), CODE["new"], CODE["established"])
    code[_unsettled(activity_time_N, thresholds)[last]] = CODE["at_risk"]
    code[(returned >= 0) & (since_return < _us(thresholds.reactivated_days))] = CODE["reactivated"]
    code[silence >= _us(thresholds.at_risk_days)] = CODE["at_risk"]
    code[silence >= _us(thresholds.churned_days)] = CODE["churned"]
    code_Q[known_Q] = code
    return code_Q


def days_of_change(activity_time_N: NDArray[np.int64], *, thresholds: Thresholds) -> NDArray[np.int64]:
    """Days since 1970, rising, at whose first moment (00:00 UTC) one user's stage may not be that of the day before: int64 [D].

    `activity_time_N`: µs, sorted. The stage depends on which activity came before the moment, and on whether each of it is longer ago than a
    threshold: so it can only change after an activity, or as long after one as a threshold says.
    """
    days = (thresholds.new_days, thresholds.at_risk_days, thresholds.churned_days, thresholds.reactivated_days)
    found = [activity_time_N // DAY_US + 1]
    found += [-(-(activity_time_N + min(_us(wait), _EVER_US)) // DAY_US) for wait in days]
    return np.unique(np.concatenate(found))


def stage_at(activity_time_N: NDArray[np.int64], time: int, *, thresholds: Thresholds) -> Stage:
    """The stage of one user at one moment (µs)."""
    return STAGES[stages_at(activity_time_N, np.array([time], np.int64), thresholds=thresholds)[0]]


@dataclass(frozen=True)
class StageReason:
    """Why a user is in a stage. Days are None where there is no such moment in the user's past."""

    stage: Stage
    days_since_last: float | None
    days_since_first: float | None
    days_since_return: float | None
    thresholds: Thresholds
    text: str


def explain_stage(activity_time_N: NDArray[np.int64], time: int, *, thresholds: Thresholds) -> StageReason:
    """The stage of `stage_at` with the figures that decided it, and one sentence that says so."""
    stage = stage_at(activity_time_N, time, thresholds=thresholds)
    past_N = activity_time_N[: np.searchsorted(activity_time_N, time, side="left")]
    if not len(past_N):
        return StageReason(stage, None, None, None, thresholds, "no activity so far")
    returned = _last_return(past_N, thresholds.churned_days)
    last, first = (float(time - moment) / DAY_US for moment in (past_N[-1], past_N[0]))
    since_return = None if returned < 0 else float(time - past_N[returned]) / DAY_US
    text = {
        "churned": f"silent for {last:.1f} days, churned from {thresholds.churned_days:g}",
        "at_risk": _risk(past_N, last, thresholds) if stage == "at_risk" else "",
        "reactivated": f"came back {since_return or 0:.1f} days ago, reactivated for {thresholds.reactivated_days:g}",
        "new": f"first active {first:.1f} days ago, new for {thresholds.new_days:g}",
        "established": f"active {last:.1f} days ago, first active {first:.1f} days ago",
    }[stage]
    return StageReason(stage, last, first, since_return, thresholds, text)


def _risk(past_N: NDArray[np.int64], silence: float, thresholds: Thresholds) -> str:
    """Why a user is at risk: silent, or back for too few days."""
    if silence >= thresholds.at_risk_days:
        return f"silent for {silence:.1f} days, at risk from {thresholds.at_risk_days:g}"
    back = _last_return(past_N, thresholds.at_risk_days)
    gap = float(past_N[back] - past_N[back - 1]) / DAY_US
    return (
        f"active {silence:.1f} days ago after {gap:.1f} days of silence; at risk until active on "
        f"{thresholds.settled_days} days"
    )


def _returns(activity_time_N: NDArray[np.int64], days: float) -> NDArray[np.int64]:
    """For each activity, the position of the latest one up to and including it that ended a silence of `days`, or -1."""
    position = np.full(len(activity_time_N), -1)
    came_back = np.flatnonzero(activity_time_N[1:] - activity_time_N[:-1] >= _us(days)) + 1
    position[came_back] = came_back
    return np.maximum.accumulate(position)


def _last_return(past_N: NDArray[np.int64], days: float) -> int:
    """The last one of `_returns`."""
    came_back = np.flatnonzero(past_N[1:] - past_N[:-1] >= _us(days))
    return int(came_back[-1]) + 1 if len(came_back) else -1


def _unsettled(activity_time_N: NDArray[np.int64], thresholds: Thresholds) -> NDArray[np.bool_]:
    """For each activity: a user whose last one it is came back from a risk on fewer than `settled_days` days so far."""
    returned = _returns(activity_time_N, thresholds.at_risk_days)
    day = activity_time_N // DAY_US
    active_days = np.ones(len(day), np.int64)
    np.cumsum(day[1:] > day[:-1], out=active_days[1:])
    active_days[1:] += 1
    return (returned >= 0) & (active_days - active_days[returned] + 1 < thresholds.settled_days)


def _us(days: float) -> int:
    return round(days * DAY_US)
