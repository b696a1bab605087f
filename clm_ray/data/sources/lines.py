"""CSV and JSON lines, read so that a broken line costs itself alone.

A record is a line. Each block of lines is parsed by Arrow at once where every line of it is in order, else line by line; so
one line with a missing quote or an extra column is reported, with its number, and the next one is read as usual. Lines that
make one record with quoted line breaks are reported together: the last of them, read alone, might pass for a row.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv

from clm_ray.data.clean import ROW
from clm_ray.data.normalise import column_of

BLOCK_BYTES = 8 << 20
_LONGEST_RECORD = 64
"""Lines after which a quote that is still open counts as a mistake of its own line."""
_LONGEST_FIELD = (1 << 31) - 1
_ABSENT = object()
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Lines:
    """Rows read from one block: the asked-for columns and ROW (the line's number from 1), and the lines that are none.

    keys: of JSON lines, those of the asked-for columns that some record has.
    """

    rows: pa.Table
    broken: Sequence[tuple[int, str]]
    keys: frozenset[str] = frozenset()


def csv_header(stream: pa.NativeFile, *, delimiter: str) -> list[str]:
    """Column names: the first line that is not empty. An empty file has none. Raises csv.Error for a line that is none of CSV."""
    for _, lines in _blocks(stream, block_bytes=1 << 16):
        for line in lines:
            if line:
                return _header(line, delimiter=delimiter)
    return []


def jsonl_keys(stream: pa.NativeFile) -> list[str]:
    """Keys of the objects in the first block, in order of appearance; of an object within one, `outer.inner`."""
    keys: dict[str, None] = {}
    for _, lines in _blocks(stream, block_bytes=1 << 20):
        for line in lines:
            keys.update(dict.fromkeys(_names(_object(line) or {})))
        break
    return list(keys)


def read_csv(
    stream: pa.NativeFile, *, columns: Sequence[str], delimiter: str, block_bytes: int = BLOCK_BYTES
) -> Iterator[Lines]:
    """`columns` of a CSV file as strings, block by block. Quoted values may not contain line breaks."""
    header: list[str] | None = None
    waiting: Sequence[tuple[int, bytes]] = ()
    for first, lines in _blocks(stream, block_bytes=block_bytes):
        numbered = [(first + i, line) for i, line in enumerate(lines) if line]
        if header is None and numbered:
            header = _header(numbered.pop(0)[1], delimiter=delimiter)
        if header is not None and numbered:
            read, waiting = _csv_block([*waiting, *numbered], header=header, columns=columns, delimiter=delimiter)
            yield read
    if header is not None and waiting:
        yield _csv_lines(waiting, header=header, columns=columns, delimiter=delimiter, last=True)[0]


def read_jsonl(stream: pa.NativeFile, *, columns: Sequence[str], block_bytes: int = BLOCK_BYTES) -> Iterator[Lines]:
    """`columns` (keys, or `outer.inner` of objects within) of a file with one JSON object per line, block by block; a missing one reads as
    null."""
    for first, lines in _blocks(stream, block_bytes=block_bytes):
        records, row, broken = [], [], []
        for number, line in enumerate(lines, start=first):
            if not line:
                continue
            record = _object(line)
            if record is None:
                broken.append((number, line.decode(errors="replace")))
            else:
                records.append(record)
                row.append(number)
        values = {name: [_value(record, name) for record in records] for name in columns}
        keys = frozenset(name for name, of in values.items() if any(value is not _ABSENT for value in of))
        table = {name: column_of([None if value is _ABSENT else value for value in of]) for name, of in values.items()}
        yield Lines(pa.table({**table, ROW: pa.array(row, pa.int64())}), broken, keys)


def _names(record: Mapping[str, object], *, within: str = "") -> Iterator[str]:
    for name, value in record.items():
        yield within + name
        if isinstance(value, dict):
            yield from _names(value, within=f"{within}{name}.")


def _value(record: Mapping[str, object], name: str) -> object:
    """The value under a key, or under `outer.inner`; _ABSENT where there is no such key."""
    if name in record:
        return record[name]
    found: object = record
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            return _ABSENT
        found = found[part]
    return found


def _blocks(stream: pa.NativeFile, *, block_bytes: int) -> Iterator[tuple[int, list[bytes]]]:
    """Lines without their ends, in blocks; with the number of each block's first line."""
    number, rest = 1, b""
    while data := _read(stream, block_bytes):
        if number == 1 and not rest:
            data = data.removeprefix(_BOM)
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            yield number, [line.removesuffix(b"\r") for line in lines]
        number += len(lines)
    if rest:
        yield number, [rest.removesuffix(b"\r")]


def _read(stream: pa.NativeFile, size: int) -> bytes:
    parts, missing = [], size
    while missing and (part := stream.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _csv_block(
    numbered: Sequence[tuple[int, bytes]], *, header: Sequence[str], columns: Sequence[str], delimiter: str
) -> tuple[Lines, Sequence[tuple[int, bytes]]]:
    """The rows, and the lines at the end that can only be judged beside those of the next block."""
    row = np.array([number for number, _ in numbered], np.int64)
    data = b"\n".join(line for _, line in numbered)
    open_end = _stays_open(numbered[-1][1].decode(errors="replace"), delimiter=delimiter)
    if open_end or b"\r" in data:  # Arrow closes a last quote by itself, and ends lines at a carriage return
        return _csv_lines(numbered, header=header, columns=columns, delimiter=delimiter)
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            read_options=pyarrow.csv.ReadOptions(column_names=list(header), use_threads=False, block_size=1 << 30),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                include_columns=list(columns),
                strings_can_be_null=False,
            ),
        )
        if len(table) == len(row):
            return Lines(table.append_column(ROW, pa.array(row)), []), ()
    except pa.ArrowInvalid:
        pass
    return _csv_lines(numbered, header=header, columns=columns, delimiter=delimiter)


def _csv_lines(
    numbered: Sequence[tuple[int, bytes]],
    *,
    header: Sequence[str],
    columns: Sequence[str],
    delimiter: str,
    last: bool = False,
) -> tuple[Lines, Sequence[tuple[int, bytes]]]:
    """The careful way: one line at a time. `last`: no line follows."""
    values, row, broken = [], [], []
    place = 0
    while place < len(numbered):
        number, line = numbered[place]
        fields = None
        with suppress(UnicodeDecodeError):
            fields = _split(line.decode(), delimiter=delimiter)
        if fields is not None and len(fields) == len(header):
            values.append(fields)
            row.append(number)
            place += 1
            continue
        following = [text for _, text in numbered[place : place + _LONGEST_RECORD]]
        count = _record_lines(following, delimiter=delimiter)
        if count is None and len(following) < _LONGEST_RECORD and not last:
            break
        for number, line in numbered[place : place + (count or 1)]:
            broken.append((number, line.decode(errors="replace")))
        place += count or 1
    places = [header.index(name) for name in columns]
    table = {name: pa.array([v[p] for v in values], pa.string()) for name, p in zip(columns, places, strict=True)}
    return Lines(pa.table({**table, ROW: pa.array(row, pa.int64())}), broken), numbered[place:]


def _record_lines(lines: Sequence[bytes], *, delimiter: str) -> int | None:
    """How many of `lines` make one record with quoted line breaks; 1 where the first is broken by itself, None: not these."""
    texts = [line.decode(errors="replace") + "\n" for line in lines]
    if not _stays_open(texts[0], delimiter=delimiter):
        return 1
    for count, text in enumerate(texts[1:], start=2):
        if text.count('"') % 2:
            with suppress(csv.Error):
                return count if len(list(_records(texts[:count], delimiter=delimiter))) == 1 else 1
            return 1
    return None


def _stays_open(line: str, *, delimiter: str) -> bool:
    try:
        next(_records([line], delimiter=delimiter), None)
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False


def _records(lines: Iterable[str], *, delimiter: str, strict: bool = True) -> Iterator[list[str]]:
    """As Arrow reads them, which knows no longest field; that of `csv` is one for the whole process, and 131,072 characters at first."""
    csv.field_size_limit(_LONGEST_FIELD)
    return csv.reader(lines, delimiter=delimiter, strict=strict)


def _header(line: bytes, *, delimiter: str) -> list[str]:
    """Column names without spaces around them; a name that comes again is numbered (`name#2`)."""
    seen: dict[str, int] = {}
    names = []
    fields = _split(line.decode(errors="replace"), delimiter=delimiter)
    if fields is None:
        raise csv.Error("the line of column names has an open quote or a carriage return in it")
    for raw in fields:
        name = raw.strip()
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def _split(line: str, *, delimiter: str) -> list[str] | None:
    """The fields of one line; None where a quote stays open, or a carriage return stands outside quotes."""
    if _stays_open(line, delimiter=delimiter):
        return None
    for strict in (True, False):
        with suppress(csv.Error):
            return next(csv.reader([line], delimiter=delimiter, strict=strict), [])
    return None


def _object(line: bytes) -> dict[str, object] | None:
    """One JSON object; None where the line is none. NaN and Infinity, which JSON does not know but Python writes, are read.

    Half of a surrogate pair is no character: a line with one (a text cut off within an emoji) is none either.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            record = json.loads(line)
            json.dumps(record, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            return None
    return record if isinstance(record, dict) else None
