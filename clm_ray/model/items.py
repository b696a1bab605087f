"""Item inputs of the network from the catalogue: text rows, identifier slots, category entries, further vectors.

Shape letters: I item rows, U distinct items of a batch, X distinct texts, M width of the further vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from clm_ray.features.catalogue import Catalogue
from clm_ray.model.network import ItemInputs


def bucket_slot(item_id: str, buckets: int) -> int:
    """Hashed identifier slot of a rare or new item: 1 to `buckets` (0 is the unknown item)."""
    return 1 + int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest(), "little") % buckets


def assign_slots(
    catalogue: Catalogue, events_I: NDArray[np.float64], *, min_events: int, buckets: int
) -> NDArray[np.int32]:
    """Identifier slot of each row: own slots for items with enough training events, hashed ones for the others."""
    slot = np.array([0, *(bucket_slot(i, buckets) for i in catalogue.ids[1:])], np.int32)
    own = np.flatnonzero(events_I >= min_events)
    own = own[own > 0]
    slot[own] = np.arange(len(own), dtype=np.int32) + buckets + 1
    return slot


@dataclass(frozen=True)
class ItemVectors:
    """Further vectors of the items, of images for example: vector_IM, 0 where has_I says that an item has none."""

    vector_IM: NDArray[np.float32]
    has_I: NDArray[np.bool_]

    @staticmethod
    def of(items: pa.Table) -> ItemVectors:
        """From a table of ITEMS; of width 0 where no item has one (or, of a dataset from before there were any, no such column)."""
        given = items.column("vectors").combine_chunks() if "vectors" in items.column_names else pa.nulls(len(items))
        has_I = given.is_valid().to_numpy(zero_copy_only=False)
        vector_IM = np.zeros((len(items), len(given[int(has_I.argmax())]) if has_I.any() else 0), np.float32)
        if vector_IM.shape[1]:
            vector_IM[has_I] = given.drop_null().flatten().to_numpy().reshape(-1, vector_IM.shape[1])
        return ItemVectors(vector_IM, has_I)

    def scale(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(mean_M, spread_M) over the items that have one; spread 1 where all are alike."""
        given = self.vector_IM[self.has_I].astype(np.float64)
        if not len(given):
            return np.zeros(self.vector_IM.shape[1], np.float32), np.ones(self.vector_IM.shape[1], np.float32)
        mean_M, spread_M = given.mean(0), given.std(0)
        alike = spread_M <= 1e-6 * (1e-6 + np.abs(mean_M))
        return mean_M.astype(np.float32), np.where(alike, 1.0, spread_M).astype(np.float32)


@dataclass(frozen=True)
class ItemTable:
    """text_I: row of the distinct text; slot_I: identifier slot; categories as in the catalogue; texts: distinct texts."""

    catalogue: Catalogue
    text_I: NDArray[np.int32]
    slot_I: NDArray[np.int32]
    texts: tuple[str, ...]
    vectors: ItemVectors

    @staticmethod
    def build(catalogue: Catalogue, slot_I: NDArray[np.int32], vectors: ItemVectors | None = None) -> ItemTable:
        """Number the distinct texts in order of first appearance. `vectors` None: no item has one."""
        if vectors is None:
            vectors = ItemVectors(np.zeros((len(catalogue), 0), np.float32), np.zeros(len(catalogue), bool))
        row: dict[str, int] = {}
        text_I = np.fromiter((row.setdefault(t, len(row)) for t in catalogue.texts), np.int32, count=len(catalogue))
        return ItemTable(catalogue, text_I, slot_I, tuple(row), vectors)

    def inputs(self, item_U: NDArray[Any], text_row_U: NDArray[Any]) -> ItemInputs:
        """Network inputs of the given rows; `text_row_U` says where their text vector stands in the batch's text table."""
        _, code, segment = self.catalogue.explode(np.asarray(item_U, np.int32))
        return ItemInputs(
            text_U=torch.from_numpy(np.asarray(text_row_U, np.int64)),
            slot_U=torch.from_numpy(self.slot_I[item_U].astype(np.int64)),
            category=torch.from_numpy(code.astype(np.int64)),
            category_start_U=torch.from_numpy(segment.astype(np.int64)),
            vector_UM=torch.from_numpy(self.vectors.vector_IM[item_U]),
            has_vector_U=torch.from_numpy(self.vectors.has_I[item_U]),
        )


@dataclass(frozen=True)
class UserTable:
    """User columns as numbers: categorical values as one vocabulary (0: unknown), numeric ones standardised."""

    categories: tuple[str, ...]
    numbers: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    @staticmethod
    def fit(
        categorical: Sequence[dict[str, str]], numeric: Sequence[dict[str, float]], *, min_users: int = 3
    ) -> UserTable:
        """Vocabulary of column=value pairs seen with at least `min_users` users, and the scale of each numeric column."""
        seen: dict[str, int] = {}
        for row in categorical:
            for pair in _pairs(row):
                seen[pair] = seen.get(pair, 0) + 1
        names = sorted({name for row in numeric for name in row})
        columns = [np.array([row[n] for row in numeric if n in row and np.isfinite(row[n])]) for n in names]
        return UserTable(
            categories=("", *sorted(pair for pair, users in seen.items() if users >= min_users)),
            numbers=tuple(names),
            mean=tuple(float(c.mean()) if len(c) else 0.0 for c in columns),
            scale=tuple(float(c.std()) if len(c) and c.std() > 0 else 1.0 for c in columns),
        )

    @cached_property
    def _code(self) -> dict[str, int]:
        return {pair: code for code, pair in enumerate(self.categories)}

    def codes(self, categorical: dict[str, str]) -> list[int]:
        """Vocabulary codes of a user's categorical columns; [0] where none is known."""
        return [self._code[p] for p in _pairs(categorical) if p in self._code] or [0]

    def scaled(self, numeric: dict[str, float]) -> list[float]:
        """Standardised numeric columns (0 where missing); one 0 where there are no columns."""
        out = []
        for name, mean, scale in zip(self.numbers, self.mean, self.scale, strict=True):
            value = numeric.get(name)
            out.append((value - mean) / scale if value is not None and np.isfinite(value) else 0.0)
        return out or [0.0]


def _pairs(row: dict[str, str]) -> list[str]:
    return [f"{column}={value}" for column, value in sorted(row.items())]
