"""One table of files: which columns each file has, and reading them in blocks, whatever the format."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clm_ray.config.source import TableConfig
from clm_ray.data.clean import ROW
from clm_ray.data.sources.lines import Lines, csv_header, jsonl_keys, read_csv, read_jsonl
from clm_ray.data.sources.places import Place, find_files
from clm_ray.errors import ConfigError, DataError, SchemaError

Format = Literal["parquet", "csv", "jsonl"]

_PARQUET_ROWS = 131_072
_PIECE_ROWS = 1_000_000
_AT_ONCE = 16


@dataclass(frozen=True)
class TableFile:
    """One file of a table, its columns, and (Parquet) the number of rows in each row group. A column within an object is `outer.inner`.

    constants: columns that stand in the path (Hive partitions, `day=2024-05-01/`) and not in the file; `columns` has them too.
    """

    place: Place
    format: Format
    delimiter: str
    columns: tuple[str, ...]
    group_rows: tuple[int, ...] = ()
    constants: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """What one task reads: a whole text file, or some row groups of a Parquet file. `file` is its position in the table."""

    file: int
    groups: tuple[int, ...] = ()
    first_row: int = 1


def open_table(config: TableConfig, *, field: str) -> list[TableFile]:
    """Find the files and look at their columns. Raises DataError for a path without files or a file that is damaged."""
    places = find_files(config.paths, format=config.format, field=f"{field}.paths")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        files = list(pool.map(lambda place: _inspect(place, config=config, field=field), places))
    return [file for file in files if file.columns or file.format == "jsonl"]


def resolve_columns(
    files: Sequence[TableFile],
    config: TableConfig,
    *,
    field: str,
    required: Sequence[str],
    optional: Sequence[str] = (),
    somewhere: Sequence[str] = (),
) -> Mapping[str, str]:
    """Contract column → column in the files, of those that some file has.

    `required` must be in every file; `somewhere`, and each column that the recipe names, in at least one (files of JSON lines may
    lack it: a key can be rare; `check_keys` tells, once they are read). Columns that are neither named nor needed are looked for in
    the first block of JSON lines only. Raises SchemaError naming the column, the file and the columns there are.
    """
    known = [*required, *optional, *somewhere]
    for name in config.columns:
        if name not in known:
            raise ConfigError(
                "is not a column of this table", field=f"{field}.columns", value=name, fix=f"one of {known}"
            )
    meant = {name: config.columns.get(name, name) for name in known}
    for file in files:
        for name in required if file.columns else ():
            if meant[name] not in file.columns:
                raise _missing(name, meant[name], file=file, field=field)
    for name in (*somewhere, *config.columns):
        if files and config.format != "jsonl" and not any(meant[name] in file.columns for file in files):
            raise _missing(name, meant[name], file=files[0], field=field)
    rare = {*required, *somewhere, *config.columns} if config.format == "jsonl" else set()
    return {n: column for n, column in meant.items() if n in rare or any(column in file.columns for file in files)}


def check_keys(
    files: Sequence[TableFile], config: TableConfig, *, field: str, named: Sequence[str], found: Collection[str]
) -> None:
    """Of JSON lines that were read: raise SchemaError for a column that the recipe names and no record has."""
    for name in (*named, *config.columns):
        if config.format == "jsonl" and name not in found:
            raise _missing(name, config.columns.get(name, name), file=files[0], field=field)


def pieces_of(files: Sequence[TableFile]) -> list[Piece]:
    """Cut the files into what one task reads."""
    pieces = []
    for position, file in enumerate(files):
        if file.format != "parquet":
            pieces.append(Piece(position))
            continue
        groups: list[int] = []
        first, rows = 1, 0
        for group, count in enumerate(file.group_rows):
            groups.append(group)
            rows += count
            if rows >= _PIECE_ROWS or group == len(file.group_rows) - 1:
                pieces.append(Piece(position, tuple(groups), first))
                groups, first, rows = [], first + rows, 0
    return pieces


def read_piece(file: TableFile, piece: Piece, *, columns: Mapping[str, str]) -> Iterator[Lines]:
    """Blocks of rows with the contract's column names, those that the file has."""
    present = {column: name for name, column in columns.items() if column in file.columns or file.format == "jsonl"}
    wanted = [column for column in dict.fromkeys(present) if column not in file.constants]
    if file.format == "parquet":
        blocks = _read_parquet(file, piece, columns=wanted)
    else:
        blocks = _read_text(file, columns=wanted)
    for block in blocks:
        rows = block.rows
        for column in file.constants.keys() & present.keys():
            rows = rows.append_column(column, pa.repeat(pa.scalar(file.constants[column], pa.string()), len(rows)))
        named = {name: rows.column(column) for name, column in columns.items() if column in present}
        keys = frozenset(name for name, column in columns.items() if column in block.keys or column in file.constants)
        yield Lines(pa.table({**named, ROW: block.rows.column(ROW)}), block.broken, keys)


def read_whole(files: Sequence[TableFile], *, columns: Mapping[str, str]) -> Iterator[tuple[TableFile, Lines]]:
    """Every block of every file, in order: for tables that fit one machine (catalogue, users)."""
    for piece in pieces_of(files):
        file = files[piece.file]
        for block in read_piece(file, piece, columns=columns):
            yield file, block


def _inspect(place: Place, *, config: TableConfig, field: str) -> TableFile:
    try:
        if config.format == "parquet":
            with place.open_file() as opened:
                metadata = pq.ParquetFile(opened).metadata
            groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
            return _table_file(place, config, _names(metadata.schema.to_arrow_schema()), groups)
        with place.open_stream() as stream:
            if config.format == "csv":
                names = tuple(csv_header(stream, delimiter=config.delimiter))
            else:
                names = tuple(jsonl_keys(stream))
    except (OSError, pa.ArrowInvalid, csv.Error) as error:
        raise _damaged(place, error, format=config.format, field=field) from error
    return _table_file(place, config, names)


def _table_file(place: Place, config: TableConfig, names: Sequence[str], group_rows: tuple[int, ...] = ()) -> TableFile:
    constants = {name: value for name, value in place.partitions().items() if name not in names} if names else {}
    return TableFile(place, config.format, config.delimiter, (*names, *constants), group_rows, constants)


def _names(fields: Iterable[pa.Field], *, within: str = "") -> list[str]:
    """Names of the columns, and of those within structs."""
    found = []
    for one in fields:
        found.append(within + one.name)
        if pa.types.is_struct(one.type):
            found += _names(one.type, within=f"{within}{one.name}.")
    return found


def _read_parquet(file: TableFile, piece: Piece, *, columns: Sequence[str]) -> Iterator[Lines]:
    """Row groups by themselves: one that is damaged costs its own rows. Checksums of pages are verified where the file has them."""
    first = piece.first_row
    try:
        with file.place.open_file() as opened:
            parquet = pq.ParquetFile(opened, page_checksum_verification=True)
            for group in piece.groups:
                rows, done = file.group_rows[group], 0
                try:
                    for block in _row_group(parquet, group, columns=columns, first=first):
                        done += block.rows.num_rows
                        yield block
                    if done < rows:  # a damaged page header can make a column shorter, without an error
                        raise pa.ArrowInvalid(f"{rows - done} of its {rows} rows are missing")
                except (OSError, pa.ArrowInvalid) as error:
                    _check_readable(opened, parquet, group)
                    text = f"row group {group} is damaged: {str(error).partition(chr(10))[0]}"
                    empty = pa.table({**{name: pa.nulls(0) for name in columns}, ROW: pa.array([], pa.int64())})
                    yield Lines(empty, [(first + row, text) for row in range(done, rows)])
                first += rows
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(file.place, error, format=file.format, field="source") from error


def _row_group(parquet: pq.ParquetFile, group: int, *, columns: Sequence[str], first: int) -> Iterator[Lines]:
    for batch in parquet.iter_batches(batch_size=_PARQUET_ROWS, row_groups=[group], columns=list(columns)):
        table = pa.table({name: _readable(_column(batch, name)) for name in columns})
        yield Lines(table.append_column(ROW, pa.array(np.arange(first, first + batch.num_rows))), [])
        first += batch.num_rows


def _check_readable(opened: pa.NativeFile, parquet: pq.ParquetFile, group: int) -> None:
    """Raises OSError where it is not the row group that is damaged but the storage that cannot be read."""
    chunks = [parquet.metadata.row_group(group).column(n) for n in range(parquet.metadata.num_columns)]
    for chunk in chunks:
        start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
        opened.seek(start)
        opened.read(chunk.total_compressed_size)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    """A column, or one within a struct (null where the struct is)."""
    if name in batch.schema.names:
        return batch.column(name)
    outer, _, inner = name.partition(".")
    while outer not in batch.schema.names:  # a dot in the name itself
        part, _, inner = inner.partition(".")
        outer = f"{outer}.{part}"
    return pc.struct_field(batch.column(outer), inner.split("."))


def _readable(column: pa.Array) -> pa.Array:
    """The column; as bytes where it claims to be text and is not UTF-8, so that only the rows concerned are rejected.

    Raises ArrowInvalid where such text lies within lists or maps.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise
        return column.cast(pa.large_binary())
    return column


def _read_text(file: TableFile, *, columns: Sequence[str]) -> Iterator[Lines]:
    try:
        with file.place.open_stream() as stream:
            if file.format == "csv":
                yield from read_csv(stream, columns=columns, delimiter=file.delimiter)
            else:
                yield from read_jsonl(stream, columns=columns)
    except OSError as error:
        raise _damaged(file.place, error, format=file.format, field="source") from error


def _damaged(place: Place, error: Exception, *, format: str, field: str) -> DataError:
    return DataError(
        f"cannot be read as {format}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
        field=field,
        value=place.name,
        fix="check source.*.format, or write the file again",
    )


def _missing(name: str, column: str, *, file: TableFile, field: str) -> SchemaError:
    called = f"column {column!r} (for {name})" if column != name else f"column {name!r}"
    return SchemaError(
        f"{called} is not in {file.place.name}, which has: {', '.join(file.columns)}",
        field=f"{field}.columns.{name}",
        fix=f"map it: {field}.columns: {{{name}: <column of the file>}}",
    )
