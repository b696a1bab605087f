"""Retention references of one user: the moments of the calendar grid at which somebody could be asked whether they come back, and what became of it.

Shape letters: R references.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.data.splits import SplitPlan
from clm_ray.data.windows import References
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.lifecycle.windows import first_after, next_activity_bins, on_grid, reference_grid
from clm_ray.schema import DAY_US, LARGEST_VALUE, TEST


def reference_times(recipe: Recipe, first_activity: int, log_end: int) -> NDArray[np.int64]:
    """The calendar grid of retention references."""
    return reference_grid(first_activity, log_end, recipe.retention.every_days)


@dataclass(frozen=True)
class ReferenceSource:
    """Finds a user's references on the grid `grid_R`."""

    recipe: Recipe
    vocabulary: EventVocabulary
    plan: SplitPlan
    grid_R: NDArray[np.int64]

    def of(self, history: History) -> References:
        """All references of a user, whose whole history this is."""
        activity = history.time_N[self.vocabulary.is_activity(history)]
        grid = self.grid_R if self.recipe.retention.enabled else self.grid_R[:0]
        grid = grid[on_grid(activity, grid, self.recipe.retention.active_within_days)]
        split, end = self.plan.of_references(grid)
        sent = history.time_N[self.vocabulary.is_one_of(history, self.recipe.retention.treatments)]
        end = np.minimum(end, first_after(sent, grid))
        bins = np.zeros(len(grid), np.int32)
        seen = np.zeros(len(grid), np.int32)
        for moment in np.unique(end):
            at = end == moment
            bins[at], seen[at] = next_activity_bins(
                activity, grid[at], bin_ends=self.recipe.retention.bin_ends, log_end_us=int(moment)
            )
        horizon = max(self.recipe.retention.report_days) * DAY_US
        spend = np.concatenate([[0.0], np.cumsum(self.vocabulary.amounts(history), dtype=np.float64)])
        low = np.searchsorted(history.time_N, grid)
        high = np.searchsorted(history.time_N, grid + horizon)
        spent = np.clip(spend[high] - spend[low], -LARGEST_VALUE, LARGEST_VALUE)
        value = np.where(grid + horizon <= end, spent, np.nan).astype(np.float32)
        return References(grid, bins, seen, value, split).select(seen > 0)


def test_rows(user_id: str, references: References) -> list[dict[str, Any]]:
    """Rows of schema.REFERENCES: those of the test split."""
    return [
        {
            "user_id": user_id,
            "time": int(references.time_R[r]),
            "bin": int(references.bin_R[r]),
            "censored": int(references.censored_R[r]),
            "value": float(references.value_R[r]),
            "split": int(references.split_R[r]),
        }
        for r in np.flatnonzero(references.split_R == TEST)
    ]
