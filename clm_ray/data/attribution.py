"""Which impression an answer belongs to: a click or purchase counts for what was shown before it, if it came in time.

A label window is half-open: an impression at t is answered by what comes in [t, t + window). Its label is final at t + window, not before,
so a target whose window reaches beyond its split, or beyond the log, is none (`SplitPlan.usable`).

Shape letters: N events of one user.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History


@dataclass(frozen=True)
class Attributed:
    """Labels after attribution. `label_N`: NaN where the event is no target of its own, answers among them; `weight_N`: of the
    answer's type where an impression was answered; `final_N`: the moment from which the label is known, µs."""

    label_N: NDArray[np.float32]
    weight_N: NDArray[np.float32]
    final_N: NDArray[np.int64]


def attribute(
    history: History, label_N: NDArray[np.float32], vocabulary: EventVocabulary, *, window_us: int
) -> Attributed:
    """Give each positive event to the last impression (an event of the role negative) of its item that it answers in time.

    An answered impression becomes positive, at its own moment; its answers are no targets any more. Positive events that answer nothing,
    and ratings, stay as they are. window_us: 0 leaves everything as it stands.
    """
    weight_N = vocabulary.weights[history.event_N]
    final_N = history.time_N.copy()
    shown = np.flatnonzero(vocabulary.is_impression(history) & (label_N == 0.0))
    if not window_us or not len(shown):
        return Attributed(label_N, weight_N, final_N)
    final_N[shown] += window_us
    positive = np.flatnonzero(vocabulary.is_answer(history) & (label_N == 1.0))
    answered = _last_shown(history, shown, positive)
    late = history.time_N[positive] - history.time_N[np.maximum(answered, 0)] >= window_us
    taken = (answered >= 0) & ~late
    label_N = label_N.copy()
    label_N[positive[taken]] = np.nan
    label_N[answered[taken]] = 1.0
    weight_N[answered[taken]] = 0.0
    np.maximum.at(weight_N, answered[taken], vocabulary.weights[history.event_N[positive[taken]]])
    return Attributed(label_N, weight_N, final_N)


def _last_shown(history: History, shown: NDArray[np.int64], positive: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the last impression of the same item at or before each positive event; -1: none."""
    span = len(history) + 1
    key = history.item_N[shown].astype(np.int64) * span + shown
    order = np.argsort(key)
    before = np.searchsorted(history.time_N, history.time_N[positive], side="right")
    item = history.item_N[positive].astype(np.int64)
    at = np.searchsorted(key[order], item * span + before) - 1
    found = shown[order[np.maximum(at, 0)]]
    return np.where((at >= 0) & (history.item_N[found] == history.item_N[positive]), found, -1)
