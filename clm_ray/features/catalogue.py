"""The catalogue as arrays: item rows, their ids and their categories.

Shape letters: I item rows (row 0 is the reserved unknown item), E (item, category) entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

NO_CATEGORY = ""
"""Category of items that have none, so that every item has at least one entry."""


NO_ROWS: NDArray[np.int32] = np.empty(0, np.int32)
_NO_ITEM = "\0"
"""What the id of a row begins with that is no item: no item has a control character in its id."""


@dataclass(frozen=True)
class Amendment:
    """A row as it is from now on; `row` may lie beyond the catalogue's end. gone: no longer offered."""

    row: int
    item_id: str
    text: str
    categories: tuple[str, ...]
    gone: bool = False


@dataclass(frozen=True)
class Catalogue:
    """gone_G: rows that are not offered any more (histories may still speak of them). ids_I: item ids. categories: names by code (code 0 is NO_CATEGORY). Categories of row i are entry_E[start[i]:start[i + 1]]."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    categories: tuple[str, ...]
    entry_E: NDArray[np.int32]
    start: NDArray[np.int64]
    gone_G: NDArray[np.int32] = field(default_factory=lambda: NO_ROWS)

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
        return np.fromiter(map(self.row_of.get, items, repeat(0)), np.int32, count=len(items))

    def offered(self, items: Sequence[str]) -> NDArray[np.int32]:
        """Rows of the given ids, 0 for unknown ones and for those that are gone."""
        row_Q = self.rows(items)
        return np.where(np.isin(row_Q, self.gone_G), np.int32(0), row_Q) if len(self.gone_G) else row_Q

    def item(self, row: int) -> str | None:
        """Id of the item in a row; None where there is none: the unknown item's row, one that nobody gave, one of a newer catalogue."""
        known = 0 < row < len(self) and not self.ids[row].startswith(_NO_ITEM)
        return self.ids[row] if known else None

    def amended(self, changes: Sequence[Amendment]) -> Catalogue:
        """The catalogue with these rows changed or added, each given once. A row in between that nobody gives is no item, and gone.

        Rows and category codes of before keep their meaning; new categories get new codes.
        """
        size = max([len(self), *(change.row + 1 for change in changes)])
        ids = [*self.ids, *(f"{_NO_ITEM}{row}" for row in range(len(self), size))]
        texts = [*self.texts, *([""] * (size - len(self)))]
        gone = set(self.gone_G.tolist()) | set(range(len(self), size))
        code = {name: n for n, name in enumerate(self.categories)}
        count_I = np.ones(size, np.int64)
        count_I[: len(self)] = np.diff(self.start)
        entries: dict[int, list[int]] = {}
        for change in sorted(changes, key=lambda one: one.row):
            ids[change.row], texts[change.row] = change.item_id, change.text
            (gone.add if change.gone else gone.discard)(change.row)
            names = sorted({name for name in change.categories if name})
            entries[change.row] = sorted(code.setdefault(name, len(code)) for name in names) or [0]
            count_I[change.row] = len(entries[change.row])
        start = np.concatenate([[0], np.cumsum(count_I)]).astype(np.int64)
        entry_E = np.zeros(start[-1], np.int32)
        kept = np.setdiff1d(np.arange(len(self), dtype=np.int32), np.fromiter(entries, np.int32, len(entries)))
        which, found, segment = self.explode(kept)
        entry_E[start[kept][which] + np.arange(len(found)) - segment[which]] = found
        for row, codes in entries.items():
            entry_E[start[row] : start[row + 1]] = codes
        return Catalogue(tuple(ids), tuple(texts), tuple(code), entry_E, start, np.array(sorted(gone), np.int32))

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
