"""What most users chose lately: the slate for when nothing better is known, and what the first visits of others went to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clm_ray.features.statistics import ItemStatistics


@dataclass(frozen=True)
class Popular:
    """row_I: rows, most popular first. at: the same by life-cycle stage, where the log said something about it."""

    row_I: NDArray[np.int32]
    at: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)

    def rows(self, stage: str | None) -> NDArray[np.int32]:
        """First what users of this stage choose; without a stage, or one of which the log says nothing, what is popular at large."""
        return self.row_I if stage is None else self.at.get(stage, self.row_I)


NOTHING_POPULAR = Popular(np.empty(0, np.int32))


def popular_rows(statistics: ItemStatistics, *, items: int, days: int = 28) -> NDArray[np.int32]:
    """Rows 1 ... items - 1, most popular first, as of the end of the statistics.

    By positive events of the last `days` days, then of all time, then by row. Row 0, the unknown item, is left out.
    """
    row_I = np.arange(1, items, dtype=np.int32)
    end = int(statistics.day_K.max()) + 1 if len(statistics.day_K) else 0
    end_I = np.full(len(row_I), end, np.int64)
    ever_I = statistics.positives(row_I, end_I)
    lately_I = ever_I - statistics.positives(row_I, end_I - days)
    return row_I[np.lexsort((row_I, -ever_I, -lately_I))]
