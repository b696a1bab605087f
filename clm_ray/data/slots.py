"""Availability slots: which items were on offer where and when, as one compact table.

Shape letters: S slots, A (slot, item) entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(frozen=True)
class SlotTable:
    """Items of slot s are item_A[start_S[s]:start_S[s + 1]], as item rows, ascending and distinct."""

    slot_of: dict[str, int]
    start_S: NDArray[np.int64]
    item_A: NDArray[np.int32]

    @staticmethod
    def empty() -> SlotTable:
        """No slots at all."""
        return SlotTable({}, np.zeros(1, np.int64), np.empty(0, np.int32))

    @staticmethod
    def build(availability: pa.Table | None, items: pa.Table) -> SlotTable:
        """From the availability table (columns may be dictionary-encoded); items not in the catalogue are left out."""
        if availability is None or not availability.num_rows:
            return SlotTable.empty()
        slot, slots = _codes(availability.column("slot"))
        item, ids = _codes(availability.column("item_id"))
        row_of = pc.index_in(ids, value_set=items.column("item_id")).fill_null(0).to_numpy(zero_copy_only=False)
        key = (slot.astype(np.int64) << 32) | row_of.astype(np.int64)[item]
        key = key[(key & 0xFFFFFFFF) > 0]
        key.sort()  # in place: the table may have tens of millions of rows, and np.unique would hash them
        key = key[np.r_[True, key[1:] != key[:-1]]] if len(key) else key
        start = np.searchsorted(key, np.arange(len(slots) + 1, dtype=np.int64) << 32)
        return SlotTable(
            {name: s for s, name in enumerate(slots.to_pylist())}, start, (key & 0xFFFFFFFF).astype(np.int32)
        )

    def items(self, slot: str | None) -> NDArray[np.int32] | None:
        """Item rows on offer in the slot; None for an unknown slot."""
        s = self.slot_of.get(slot) if slot is not None else None
        return None if s is None else self.item_A[self.start_S[s] : self.start_S[s + 1]]


def members(item_N: NDArray[np.int32], sorted_C: NDArray[np.int32]) -> NDArray[np.bool_]:
    """bool_N: which items are among the ascending `sorted_C`."""
    if not len(sorted_C):
        return np.zeros(len(item_N), bool)
    at = np.minimum(np.searchsorted(sorted_C, item_N), len(sorted_C) - 1)
    return sorted_C[at] == item_N


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], pa.Array]:
    encoded = column.unify_dictionaries().combine_chunks() if pa.types.is_dictionary(column.type) else None
    if encoded is None:
        encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    return encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary.cast(pa.string())
