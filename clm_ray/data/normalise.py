"""Columns of any Arrow type → the contract's ids, texts and numbers. Total: a value that cannot be read becomes null.

Shape letters: N rows, K columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from clm_ray.errors import SchemaError

NUMBER = r"^[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?$"
_ZERO_FRACTION = r"^(-?[0-9]+)\.0+$"
_SCIENTIFIC = r"^[+-]?[0-9](?:\.[0-9]+)?[eE]\+[0-9]+$"
"""How tools write a number of which they keep so many digits and no more."""
_EXACT = 2.0**53
_EXACT_IN = {pa.float16(): 2.0**11, pa.float32(): 2.0**24, pa.float64(): _EXACT}
"""From here on different whole numbers become one."""
_TRUE = pa.array(["true", "t", "yes", "y", "1"])
_UUID_PARTS = (0, 8, 12, 16, 20, 32)


def flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One contiguous array, without dictionary or extension type; of UUIDs their canonical text."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column.type, pa.UuidType):
        return _uuid_text(column.storage)
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column


def as_text(column: pa.Array | pa.ChunkedArray, *, name: str) -> pa.Array:
    """Strings: whole floats without fraction ("5", not "5.0"), bytes read as UTF-8 (null where they are not).

    Raises SchemaError for a column of lists, structs or maps.
    """
    column = flat(column)
    kind = column.type
    if pa.types.is_string(kind):
        return column
    if pa.types.is_floating(kind):
        return _float_text(column.cast(pa.float64()))
    if pa.types.is_decimal(kind):
        return pc.replace_substring_regex(column.cast(pa.string()), _ZERO_FRACTION, r"\1")
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return decode(column)
    if pa.types.is_nested(kind):
        raise SchemaError(
            "a single value per row is needed", field=name, value=str(kind), fix="map a column of strings or numbers"
        )
    return column.cast(pa.string())


def as_ids(column: pa.Array | pa.ChunkedArray, *, name: str) -> tuple[pa.Array, pa.BooleanArray]:
    """Identifiers as strings, and where they are inexact (and null).

    Spaces around an id are dropped; an empty one is null; a whole number with a zero fraction loses it ("5.0" → "5": what
    other tools make of an integer column with gaps). Inexact is what went through a float in which different ids become one: floats
    of 2^53 and more (float32: 2^24, float16: 2^11), texts of such numbers with a zero fraction, texts in scientific notation ("1.23457e+15").
    """
    column = flat(column)
    text = as_text(column, name=name)
    if pa.types.is_floating(column.type):
        numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        inexact = pa.array(np.isfinite(numbers) & (np.abs(numbers) >= _EXACT_IN[column.type]))
    elif pa.types.is_decimal(column.type):
        inexact = pa.repeat(False, len(column))
    else:
        text = pc.utf8_trim_whitespace(text)
        inexact = _inexact_texts(text)
        text = _without_fraction(text)
    return pc.if_else(inexact, pa.scalar(None, pa.string()), text), inexact


@dataclass(frozen=True)
class ReadIds:
    """A column of ids. inexact, unreadable: where something was given that is no id which could be told from others; there it is null."""

    ids: pa.Array
    inexact: pa.BooleanArray
    unreadable: pa.BooleanArray


def read_ids(column: pa.Array | pa.ChunkedArray, *, name: str) -> ReadIds:
    """Ids as `as_ids` reads them, and what is wrong with those that it could not read."""
    ids, inexact = as_ids(column, name=name)
    lost = pc.is_null(ids)
    if ids.null_count:
        lost = pc.and_(lost, is_given(column, name=name))
    return ReadIds(ids, inexact, pc.and_not(lost, inexact))


def as_labels(column: pa.Array | pa.ChunkedArray, *, name: str) -> pa.Array:
    """Strings as `as_ids` makes them; a label tells nobody apart, so none is inexact."""
    return _without_fraction(pc.utf8_trim_whitespace(as_text(column, name=name)))


def as_numbers(column: pa.Array | pa.ChunkedArray, *, name: str) -> pa.Array:
    """float64; null where the value is not a finite number (a truth value is none)."""
    column = flat(column)
    kind = column.type
    if pa.types.is_null(kind) or pa.types.is_boolean(kind):
        return pa.nulls(len(column), pa.float64())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = pc.cast(column, pa.float64(), safe=False)
    else:
        text = pc.utf8_trim_whitespace(as_text(column, name=name))
        numeric = pc.fill_null(pc.match_substring_regex(text, NUMBER), False)
        numbers = pc.cast(pc.if_else(numeric, text, pa.scalar(None, pa.string())), pa.float64())
    return pc.if_else(pc.fill_null(pc.is_finite(numbers), False), numbers, pa.scalar(None, pa.float64()))


def as_flags(column: pa.Array | pa.ChunkedArray, *, name: str) -> pa.Array:
    """Booleans of true/t/yes/y/1 (1.0) in any case; everything else, null included, is false."""
    text = pc.replace_substring_regex(pc.utf8_trim_whitespace(as_text(column, name=name)), _ZERO_FRACTION, r"\1")
    return pc.fill_null(pc.is_in(pc.utf8_lower(text), value_set=_TRUE), False)


def as_lists(column: pa.Array | pa.ChunkedArray, *, name: str, separator: str) -> list[list[str]]:
    """Each row's values as strings: of a list column its elements, of a scalar column one (or several, by `separator`)."""
    column = flat(column)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        rows = [_texts(values or ()) for values in column.to_pylist()]
    else:
        texts = as_text(column, name=name).to_pylist()
        rows = [[] if text is None else text.split(separator) if separator else [text] for text in texts]
    return [[text for raw in row if (text := raw.strip())] for row in rows]


def as_vectors(column: pa.Array | pa.ChunkedArray, *, name: str) -> pa.Array:
    """list<float32>: of lists of numbers, or of texts with numbers between spaces, commas or semicolons, in brackets or not.

    Null where a value is missing, empty, or anything in it is not a finite number.
    """
    column = flat(column)
    if pa.types.is_fixed_size_list(column.type) or pa.types.is_large_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    if not pa.types.is_list(column.type):
        texts = pc.utf8_trim(as_text(column, name=name), "[]() \t")
        column = pc.split_pattern_regex(texts, r"[\s,;]+")
    values = as_numbers(column.flatten(), name=name).cast(pa.float32(), safe=False)
    length_N = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    readable = np.isfinite(values.to_numpy(zero_copy_only=False)).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(length_N)])
    good = np.concatenate([[0], np.cumsum(readable)])
    bad_N = (length_N == 0) | (good[start[1:]] - good[start[:-1]] < length_N)
    return pa.ListArray.from_arrays(pa.array(start, pa.int32()), values, mask=pa.array(bad_N))


def decode(column: pa.Array) -> pa.Array:
    """Bytes → strings; null where they are not UTF-8."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_utf8(value) for value in column.to_pylist()], pa.string())


def column_of(values: Sequence[object]) -> pa.Array:
    """Python values as one array: of their common type where they have one; lists and dicts hold strings; else all strings."""
    try:
        column = pa.array(values)
        if not pa.types.is_nested(column.type):
            return column
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        pass
    if all(value is None or isinstance(value, list) for value in values):
        lists = [value if isinstance(value, list) else None for value in values]
        return pa.array([None if v is None else _texts(v) for v in lists], pa.list_(pa.string()))
    if all(value is None or isinstance(value, dict) for value in values):
        maps = [
            {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else {} for value in values
        ]
        return pa.array(
            [list(zip(m, _texts(m.values()), strict=True)) for m in maps], pa.map_(pa.string(), pa.string())
        )
    return pa.array([None if value is None else _scalar_text(value) for value in values], pa.string())


def map_of(columns: dict[str, pa.Array], *, rows: int) -> pa.MapArray:
    """A map [N] name → value of equally long columns; a null value leaves its name out."""
    names = list(columns)
    value_type = next(iter(columns.values())).type if columns else pa.string()
    valid_KN = np.array([c.is_valid().to_numpy(zero_copy_only=False) for c in columns.values()], bool).reshape(
        len(names), rows
    )
    row, key = np.nonzero(valid_KN.T)
    offsets = np.concatenate([[0], np.cumsum(valid_KN.sum(axis=0))]).astype(np.int32)
    keys = pa.array(names, pa.string()).take(pa.array(key, pa.int64()))
    if columns:
        values = pa.chunked_array(list(columns.values())).combine_chunks().take(pa.array(key * rows + row, pa.int64()))
    else:
        values = pa.array([], value_type)
    return pa.MapArray.from_arrays(pa.array(offsets), keys, values)


def is_given(column: pa.Array | pa.ChunkedArray, *, name: str) -> pa.BooleanArray:
    """Whether anything stands there: neither null, nor NaN (what other tools make of null), nor spaces alone."""
    column = flat(column)
    if pa.types.is_floating(column.type):
        return pc.invert(pc.fill_null(pc.is_nan(column.cast(pa.float64())), True))
    blank = pc.equal(pc.utf8_trim_whitespace(as_text(column, name=name)), "")
    return pc.and_(column.is_valid(), pc.invert(pc.fill_null(blank, False)))


def _without_fraction(text: pa.Array) -> pa.Array:
    """Whole numbers without their zero fraction; null where nothing stands."""
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    if pc.any(pc.match_substring(text, ".")).as_py():
        text = pc.replace_substring_regex(text, _ZERO_FRACTION, r"\1")
    return text


def _inexact_texts(text: pa.Array) -> pa.BooleanArray:
    inexact = pa.repeat(False, len(text))
    if pc.any(pc.match_substring(text, "+")).as_py():
        inexact = pc.fill_null(pc.match_substring_regex(text, _SCIENTIFIC), False)
    if pc.any(pc.match_substring(text, ".0")).as_py():
        whole = pc.match_substring_regex(text, _ZERO_FRACTION)
        digits = pc.replace_substring_regex(text, r"^-?0*([0-9]*)\.0+$", r"\1")
        length = pc.utf8_length(digits)
        limit = str(int(_EXACT))
        as_long = pc.and_(pc.equal(length, len(limit)), pc.greater_equal(digits, limit))
        large = pc.and_(whole, pc.or_(pc.greater(length, len(limit)), as_long))
        inexact = pc.or_(inexact, pc.fill_null(large, False))
    return inexact


def _uuid_text(storage: pa.FixedSizeBinaryArray) -> pa.Array:
    digits = pa.array([None if value is None else value.hex() for value in storage.to_pylist()], pa.string())
    parts = [pc.utf8_slice_codeunits(digits, start, stop) for start, stop in pairwise(_UUID_PARTS)]
    return pc.binary_join_element_wise(*parts, "-")


def _float_text(numbers: pa.Array) -> pa.Array:
    values = numbers.to_numpy(zero_copy_only=False)
    whole_N = np.isfinite(values) & (np.abs(values) < _EXACT) & (np.trunc(values) == values)
    whole = pa.array(np.where(whole_N, values, 0.0).astype(np.int64)).cast(pa.string())
    other = pc.if_else(pa.array(np.isfinite(values)), numbers.cast(pa.string()), pa.scalar(None, pa.string()))
    return pc.if_else(pa.array(whole_N), whole, other)


def _texts(values: Iterable[object]) -> list[str]:
    return [_scalar_text(value) for value in values if value is not None]


def _scalar_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < _EXACT else repr(value)
    return orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS).decode()


def _utf8(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
