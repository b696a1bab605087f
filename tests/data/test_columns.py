"""Ragged arrays to Arrow lists and back, against plain Python lists."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from clm_ray.data.columns import list_column, map_value, ragged, rows_to_table

FLOATS = st.floats(width=32, allow_nan=False)
RAGGED = st.lists(st.lists(FLOATS, max_size=4), max_size=5)
PAIRS = st.lists(st.lists(st.tuples(FLOATS, FLOATS), max_size=3), max_size=5)


def chunked(array: pa.Array, cut: int) -> pa.ChunkedArray:
    return pa.chunked_array([array[:cut], array[cut:]], array.type)


@settings(max_examples=50)
@given(RAGGED, st.integers(0, 5))
def test_lists_survive_both_ways(rows: list[list[float]], cut: int) -> None:
    column = list_column([np.array(row, np.float32) for row in rows], pa.float32())
    assert column.to_pylist() == rows
    values, offsets = ragged(chunked(column, cut))
    assert [values[a:b].tolist() for a, b in pairwise(offsets)] == rows


@settings(max_examples=50)
@given(PAIRS, st.integers(0, 5))
def test_lists_of_rows_survive_both_ways(rows: list[list[tuple[float, float]]], cut: int) -> None:
    column = list_column([np.array(row, np.float32).reshape(-1, 2) for row in rows], pa.float32())
    assert column.to_pylist() == [[list(pair) for pair in row] for row in rows]
    if rows:
        values, offsets = ragged(chunked(column, cut))
        assert values.shape == (sum(map(len, rows)), 2 if values.size else 0)
        assert [values[a:b].tolist() for a, b in pairwise(offsets)] == [[list(pair) for pair in row] for row in rows]


def test_a_slice_of_a_column_gives_its_own_values() -> None:
    column = pa.chunked_array([list_column([np.array([1, 2]), np.array([3]), np.array([4, 5])], pa.int64())])
    values, offsets = ragged(column[1:])
    assert (values.tolist(), offsets.tolist()) == ([3, 4, 5], [0, 1, 3])


def test_rows_become_a_table_of_the_schema() -> None:
    schema = pa.schema(
        [("user", pa.string()), ("item", pa.list_(pa.int32())), ("dense", pa.list_(pa.list_(pa.float32())))]
    )
    rows = [
        {"user": "a", "item": np.array([1, 2]), "dense": np.zeros((2, 3), np.float32)},
        {"user": "b", "item": np.array([], np.int32), "dense": np.zeros((0, 3), np.float32)},
    ]
    table = rows_to_table(rows, schema)
    assert table.schema == schema
    assert table.to_pylist() == [
        {"user": "a", "item": [1, 2], "dense": [[0.0] * 3] * 2},
        {"user": "b", "item": [], "dense": []},
    ]
    assert rows_to_table([], schema).equals(schema.empty_table())


KEYS = st.sampled_from(["slot", "page", "x"])
MAPS = st.lists(st.one_of(st.none(), st.dictionaries(KEYS, st.sampled_from(["1", "2", None]))), max_size=8)


@settings(max_examples=100)
@given(MAPS, st.integers(0, 8), st.integers(0, 3))
def test_map_values_are_those_of_the_rows(rows: list[dict[str, str | None] | None], cut: int, skip: int) -> None:
    column = pa.array([None if row is None else list(row.items()) for row in rows], pa.map_(pa.string(), pa.string()))
    found = map_value(chunked(column, cut)[skip:], "slot")
    assert found.tolist() == [None if row is None else row.get("slot") for row in rows][skip:]


def test_a_map_column_without_rows() -> None:
    assert map_value(pa.chunked_array([], pa.map_(pa.string(), pa.string())), "slot").tolist() == []
