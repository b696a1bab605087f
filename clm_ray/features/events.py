"""What event types mean, as arrays: the recipe's `event_types` made ready for vectorised use.

Shape letters: N events of one user.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.source import EventTypeConfig
from clm_ray.features.history import History


@dataclass(frozen=True)
class EventVocabulary:
    """Event types in recipe order; their position is the code used in `History.event_N`."""

    types: Mapping[str, EventTypeConfig]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Event type names by code."""
        return tuple(self.types)

    @cached_property
    def index(self) -> dict[str, int]:
        """Code of each event type."""
        return {name: code for code, name in enumerate(self.names)}

    @cached_property
    def rated(self) -> bool:
        """Whether any type carries ratings."""
        return any(t.value == "rating" for t in self.types.values())

    @cached_property
    def spends(self) -> bool:
        """Whether any type carries amounts."""
        return bool(self._amount.any())

    @cached_property
    def _activity(self) -> NDArray[np.bool_]:
        return np.array(["activity" in t.roles for t in self.types.values()], bool)

    @cached_property
    def _context(self) -> NDArray[np.bool_]:
        return np.array(["context" in t.roles for t in self.types.values()], bool)

    @cached_property
    def _counts(self) -> NDArray[np.bool_]:
        return np.array([bool(t.roles) or t.positive_from is not None for t in self.types.values()], bool)

    @cached_property
    def _amount(self) -> NDArray[np.bool_]:
        return np.array([t.value == "amount" for t in self.types.values()], bool)

    @cached_property
    def _rating(self) -> NDArray[np.bool_]:
        return np.array([t.value == "rating" for t in self.types.values()], bool)

    @cached_property
    def _valued(self) -> NDArray[np.bool_]:
        return np.array([t.value != "none" for t in self.types.values()], bool)

    @cached_property
    def _fixed_label(self) -> NDArray[np.float32]:
        labels = [
            1.0 if "positive" in t.roles else 0.0 if "negative" in t.roles else np.nan for t in self.types.values()
        ]
        return np.array(labels, np.float32)

    @cached_property
    def _threshold(self) -> NDArray[np.float32]:
        return np.array(
            [np.nan if t.positive_from is None else t.positive_from for t in self.types.values()], np.float32
        )

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """Target weight of each type."""
        return np.array([t.weight for t in self.types.values()], np.float32)

    def is_activity(self, history: History) -> NDArray[np.bool_]:
        """bool_N: the event counts as the user being alive."""
        return self._activity[history.event_N]

    def is_context(self, history: History) -> NDArray[np.bool_]:
        """bool_N: the user tower sees the event."""
        return self._context[history.event_N]

    def is_one_of(self, history: History, names: Collection[str]) -> NDArray[np.bool_]:
        """bool_N: the event's type is one of `names`."""
        return np.isin(history.event_N, [self.index[name] for name in names])

    def is_impression(self, history: History) -> NDArray[np.bool_]:
        """bool_N: something was shown, and not taken as far as this event says: its type has the role negative."""
        return self._fixed_label[history.event_N] == 0.0

    def is_answer(self, history: History) -> NDArray[np.bool_]:
        """bool_N: something was taken: the event's type has the role positive."""
        return self._fixed_label[history.event_N] == 1.0

    def counts(self, history: History) -> NDArray[np.bool_]:
        """bool_N: the event is the user's. One without any role (a slate that was shown) is a fact of the log alone."""
        return self._counts[history.event_N]

    def labels(self, history: History) -> NDArray[np.float32]:
        """float32_N: 1 positive, 0 negative, NaN no label (or no item)."""
        threshold = self._threshold[history.event_N]
        by_rating = np.where(np.isnan(history.value_N), np.nan, (history.value_N >= threshold).astype(np.float32))
        label = np.where(np.isnan(threshold), self._fixed_label[history.event_N], by_rating)
        return np.where(history.item_N > 0, label, np.nan).astype(np.float32)

    def numbers(self, history: History) -> NDArray[np.float64]:
        """float64_N: amount or rating of the event, 0 where it has none or its type carries none."""
        return np.where(self._valued[history.event_N], np.nan_to_num(history.value_N), 0.0).astype(np.float64)

    def ratings(self, history: History) -> NDArray[np.float32]:
        """float32_N: rating of the event, NaN where it has none (or no item)."""
        return np.where(self._rating[history.event_N] & (history.item_N > 0), history.value_N, np.nan)

    def amounts(self, history: History) -> NDArray[np.float32]:
        """float32_N: spend of the event, 0 where it carries none."""
        known = self._amount[history.event_N] & ~np.isnan(history.value_N)
        return np.where(known, history.value_N, 0.0).astype(np.float32)
