"""Ragged arrays to Arrow list columns and back, without going through Python objects.

Shape letters: R rows, V values over all rows, F width of a dense block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def _offsets(lengths: Sequence[int]) -> NDArray[np.int32]:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def list_column(arrays: Sequence[NDArray[Any]], kind: pa.DataType) -> pa.Array:
    """list<kind> from one array per row; a two-dimensional array [n, F] becomes list<list<kind>>."""
    offsets = pa.array(_offsets([len(a) for a in arrays]), pa.int32())
    flat: NDArray[Any] = np.concatenate(arrays) if arrays else np.empty(0)
    if flat.ndim == 2:
        inner = pa.array(np.arange(len(flat) + 1, dtype=np.int32) * flat.shape[1])
        values = pa.ListArray.from_arrays(inner, pa.array(flat.ravel(), kind))
        return pa.ListArray.from_arrays(offsets, values)
    return pa.ListArray.from_arrays(offsets, pa.array(flat, kind))


def ragged(column: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """(values, offsets) of a list column; list<list<float>> gives values [V, F] (F = 0 where there is no value)."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(array).to_numpy(zero_copy_only=False))]).astype(
        np.int64
    )
    values = array.flatten()
    if pa.types.is_list(values.type):
        count = len(values)
        flat = values.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(count, len(flat) // count if count else 0), offsets
    return values.to_numpy(zero_copy_only=False), offsets


def rows_to_table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table of `schema` from dicts whose list columns are arrays."""
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if pa.types.is_list(field.type):
            inner = field.type.value_type
            kind = inner.value_type if pa.types.is_list(inner) else inner
            columns.append(list_column(values, kind).cast(field.type) if rows else pa.array([], field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def map_value(column: pa.ChunkedArray, key: str) -> NDArray[np.object_]:
    """Value of `key` in each row of a map<string, string> column; None where it is missing or the map is null."""
    result = np.full(len(column), None, object)
    start = 0
    for chunk in column.chunks:
        offsets = chunk.offsets.to_numpy(zero_copy_only=False)
        keys = chunk.keys
        hit = np.flatnonzero(pc.equal(keys, key).to_numpy(zero_copy_only=False)) if len(keys) else np.empty(0, np.int64)
        hit = hit[(hit >= offsets[0]) & (hit < offsets[-1])]
        row = np.searchsorted(offsets, hit, side="right") - 1
        result[start + row] = chunk.items.take(pa.array(hit)).to_numpy(zero_copy_only=False)
        start += len(chunk)
    return result


def encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """A string column as codes (in order of first appearance) and their dictionary, in one array."""
    array = column.combine_chunks().dictionary_encode()
    return array.unify_dictionaries().chunk(0) if isinstance(array, pa.ChunkedArray) else array
