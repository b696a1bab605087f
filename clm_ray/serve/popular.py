"""The slate for when nothing better is known: what most users chose lately."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clm_ray.features.statistics import ItemStatistics


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
