"""The catalogue as arrays: item rows, their ids and their categories.

Shape letters: I item rows (row 0 is the reserved unknown item), E (item, category) entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

NO_CATEGORY = ""
"""Category of items that have none, so that every item has at least one entry."""


@dataclass(frozen=True)
class Catalogue:
    """ids_I: item ids. categories: names by code (code 0 is NO_CATEGORY). Categories of row i are entry_E[start[i]:start[i + 1]]."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    categories: tuple[str, ...]
    entry_E: NDArray[np.int32]
    start: NDArray[np.int64]

    @staticmethod
    def build(ids: Sequence[str], texts: Sequence[str], categories: Sequence[Sequence[str]]) -> Catalogue:
        """Code the categories in alphabetical order (stable for equal catalogues)."""
        names = sorted({name for row in categories for name in row if name})
        code = {name: n for n, name in enumerate([NO_CATEGORY, *names])}
        rows = [sorted({code[name] for name in row if name}) or [0] for row in categories]
        start = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=start[1:])
        entries = np.fromiter((c for row in rows for c in row), np.int32, count=int(start[-1]))
        return Catalogue(tuple(ids), tuple(texts), tuple(code), entries, start)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row of each item id."""
        return {item: row for row, item in enumerate(self.ids)}

    def rows(self, items: Sequence[str]) -> NDArray[np.int32]:
        """Rows of the given ids, 0 for unknown ones."""
        return np.fromiter((self.row_of.get(item, 0) for item in items), np.int32, count=len(items))

    def explode(self, item_Q: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        """(query index, category code, segment starts) of every category of every queried row; no segment is empty."""
        first = self.start[item_Q]
        count = self.start[item_Q + 1] - first
        segment = np.zeros(len(item_Q), np.int64)
        np.cumsum(count[:-1], out=segment[1:])
        query = np.repeat(np.arange(len(item_Q)), count)
        entry = np.arange(len(query)) - np.repeat(segment - first, count)
        return query, self.entry_E[entry], segment

    def categories_of(self, row: int) -> tuple[str, ...]:
        """Category names of one item row (empty for none)."""
        codes = self.entry_E[self.start[row] : self.start[row + 1]]
        return tuple(self.categories[c] for c in codes if c)
