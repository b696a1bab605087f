"""The tables beside the log, read from files: catalogue, users, availability. Each fits one machine.

A row without an id, a second row of an id, and a broken line go to quarantine; the first row of an id (files by path, rows in
order) stays. Consent is the exception: it is given where every row of a user gives it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from string import Formatter
from zoneinfo import available_timezones

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from clm_ray.config.source import ItemsTableConfig, TableConfig, UsersTableConfig
from clm_ray.data.clean import BROKEN_LINE, INEXACT_ID, MISSING_ITEM, MISSING_USER, ROW, UNREADABLE_ID
from clm_ray.data.duplicates import USED_TWICE
from clm_ray.data.normalise import (
    ReadIds,
    as_flags,
    as_labels,
    as_lists,
    as_numbers,
    as_text,
    as_vectors,
    is_given,
    map_of,
    read_ids,
)
from clm_ray.data.sources import TableRead
from clm_ray.data.sources.lines import Lines
from clm_ray.data.sources.tables import TableFile, check_keys, open_table, read_whole, resolve_columns
from clm_ray.data.times import check_timezone, parse_times
from clm_ray.errors import ConfigError, SchemaError
from clm_ray.schema import AVAILABILITY, ITEMS, LARGEST_VALUE, QUARANTINE, TIMESTAMP, USERS

_SEPARATORS = re.compile(r"\s*([,;|])(?:\s*[,;|])+")


def read_items(config: ItemsTableConfig) -> TableRead:
    """The catalogue (ITEMS, without the reserved row). Raises SchemaError for a column that the template or a list names in
    vain, and for vectors of different lengths.
    """
    fields = template_fields(config.text)
    vectors = [config.vectors] if config.vectors else []
    columns = ("item_id", *fields, *config.categories, *config.numeric, *vectors)
    optional = ("available_from", "available_until", "flags")
    check_timezone(config.timezone, field="source.items.timezone")
    read = _read(config, field="source.items", key="item_id", columns=columns, optional=optional)
    _check_vectors(read.table)
    return read


def read_users(config: UsersTableConfig) -> TableRead:
    """The user table (USERS). Unreadable consent means no; an unknown time zone means UTC."""
    named = [name for name in (config.consent, config.timezone_column) if name]
    columns = ("user_id", *config.categorical, *config.numeric, *named)
    return _read(config, field="source.users", key="user_id", columns=columns, optional=())


def read_availability(config: TableConfig, *, field: str = "source.availability") -> TableRead:
    """Which item was on offer in which slot, dictionary-encoded."""
    files = open_table(config, field=field)
    columns = resolve_columns(files, config, field=field, required=["slot", "item_id"])
    tables, rejected, count = [], [], 0
    for file, block in read_whole(files, columns=columns):
        count += _size(block)
        read = {name: read_ids(block.rows.column(name), name=name) for name in AVAILABILITY.names}
        whole = reduce(pc.and_, (pc.is_valid(column.ids) for column in read.values()))
        tables.append(pa.table({name: pc.dictionary_encode(one.ids.filter(whole)) for name, one in read.items()}))
        rejected += _without_id(file, block.rows, list(read.values()), reason="missing slot or item_id")
        rejected.append(_broken(file, block.broken))
    if not tables:
        return TableRead(encoded_availability(AVAILABILITY.empty_table()), QUARANTINE.empty_table(), 0)
    return TableRead(pa.concat_tables(tables).unify_dictionaries().combine_chunks(), pa.concat_tables(rejected), count)


def encoded_availability(table: pa.Table) -> pa.Table:
    """The same table with dictionary-encoded columns."""
    return pa.table({name: table.column(name).dictionary_encode() for name in AVAILABILITY.names})


def template_fields(template: str) -> list[str]:
    """Columns that a text template names. Raises ConfigError for anything but plain `{column}`."""
    fields = []
    try:
        for _, name, spec, conversion in Formatter().parse(template):
            if name is None:
                continue
            if not name or spec or conversion:
                raise ValueError(f"{{{name}}} is not of the form {{column}}")
            fields.append(name)
    except ValueError as error:
        raise ConfigError(
            str(error), field="source.items.text", value=template, fix='e.g. "{title}, {brand}"'
        ) from error
    return list(dict.fromkeys(fields))


def fill_template(template: str, columns: Mapping[str, pa.Array], *, rows: int) -> pa.Array:
    """One text [N] per row; what a missing value leaves behind (double separators, spaces) is tidied away."""
    pieces: list[pa.Array] = []
    for literal, name, _, _ in Formatter().parse(template):
        pieces.append(pa.repeat(literal, rows))
        if name:
            pieces.append(pc.fill_null(columns[name], ""))
    texts = pc.binary_join_element_wise(*pieces, "") if pieces else pa.repeat("", rows)
    return pa.array([_tidy(text) for text in texts.to_pylist()], pa.string())


def _tidy(text: str) -> str:
    return " ".join(_SEPARATORS.sub(r"\1", text).split()).strip(" ,;|")


def _read(
    config: ItemsTableConfig | UsersTableConfig,
    *,
    field: str,
    key: str,
    columns: Sequence[str],
    optional: Sequence[str],
) -> TableRead:
    files = open_table(config, field=field)
    rest = [name for name in columns if name != key]
    found = resolve_columns(files, config, field=field, required=[key], somewhere=rest, optional=optional)
    schema = ITEMS if isinstance(config, ItemsTableConfig) else USERS
    missing = MISSING_ITEM if key == "item_id" else MISSING_USER
    tables, rejected, refused, count = [], [], [], 0
    unread: Counter[str] = Counter()
    seen: set[str] = set()
    keys: set[str] = set()
    for file, block in read_whole(files, columns=found):
        keys |= block.keys
        count += _size(block)
        read = read_ids(block.rows.column(key), name=key)
        ids = read.ids
        repeat = pa.array(list(_repeats(ids, seen=seen)), pa.bool_())
        rejected += _without_id(file, block.rows, [read], reason=missing)
        rejected.append(_rejects(file, block.rows, repeat, reason=f"{key} {USED_TWICE}"))
        rejected.append(_broken(file, block.broken))
        kept = pc.invert(pc.or_(pc.is_null(ids), repeat))
        rows = block.rows.filter(kept).combine_chunks()
        unread.update(_unread(rows, config.numeric))
        if isinstance(config, ItemsTableConfig):
            contract = _items(rows, ids.filter(kept), config)
        else:
            contract = _users(rows, ids.filter(kept), config)
            refused.append(ids.filter(pc.invert(_consent(block.rows, config))))
        tables.append(pa.table(contract, schema=schema))
    if not tables:
        return TableRead(schema.empty_table(), QUARANTINE.empty_table(), 0)
    if keys:
        check_keys(files, config, field=field, named=rest, found=keys)
    table = pa.concat_tables(tables)
    if refused:
        table = _without_consent(table, pa.chunked_array(refused))
    return TableRead(table, pa.concat_tables(rejected), count, unread)


def _items(rows: pa.Table, ids: pa.Array, config: ItemsTableConfig) -> dict[str, pa.Array]:
    texts = {name: _joined(rows, name) for name in template_fields(config.text)}
    text = fill_template(config.text, {**texts, "item_id": ids}, rows=len(ids))
    times = {
        name: parse_times(rows.column(name), timezone=config.timezone, unit=config.time_unit, name=name).cast(TIMESTAMP)
        if name in rows.column_names
        else pa.nulls(len(ids), TIMESTAMP)
        for name in ("available_from", "available_until")
    }
    flags = pa.nulls(len(ids), ITEMS.field("flags").type)
    if "flags" in rows.column_names:
        flags = pa.array(as_lists(rows.column("flags"), name="flags", separator=","), flags.type)
    vectors = pa.nulls(len(ids), ITEMS.field("vectors").type)
    if config.vectors is not None and config.vectors in rows.column_names:
        vectors = as_vectors(rows.column(config.vectors), name=config.vectors)
    return {
        "item_id": ids,
        "text": pc.if_else(pc.equal(text, ""), ids, text),
        "categories": pa.array(_categories(rows, config), pa.list_(pa.string())),
        "numeric": _numbers(rows, config.numeric),
        **times,
        "flags": flags,
        "vectors": vectors,
    }


def _check_vectors(items: pa.Table) -> None:
    """Raises SchemaError that names an item whose vector is not as long as most are."""
    given = items.filter(pc.is_valid(items.column("vectors")))
    length = pc.list_value_length(given.column("vectors"))
    counts = sorted(pc.value_counts(length).to_pylist(), key=lambda c: c["counts"], reverse=True)
    if len(counts) < 2:
        return
    usual = counts[0]["values"]
    odd = pc.index(pc.not_equal(length, usual), True).as_py()
    raise SchemaError(
        f"the vector of item {given.column('item_id')[odd].as_py()!r} has another length than those of most items ({usual})",
        field="source.items.vectors",
        value=length[odd].as_py(),
        fix="give every item a vector of one length, or none",
    )


def _users(rows: pa.Table, ids: pa.Array, config: UsersTableConfig) -> dict[str, pa.Array]:
    labels = {name: as_labels(rows.column(name), name=name) for name in config.categorical if name in rows.column_names}
    zones = pa.repeat("UTC", len(ids))
    if config.timezone_column and config.timezone_column in rows.column_names:
        given = as_text(rows.column(config.timezone_column), name=config.timezone_column)
        known = pc.is_in(given, value_set=pa.array(sorted(available_timezones())))
        zones = pc.if_else(known, given, "UTC")
    return {
        "user_id": ids,
        "categorical": map_of(labels, rows=len(ids)),
        "numeric": _numbers(rows, config.numeric),
        "consent": _consent(rows, config),
        "timezone": zones,
    }


def _consent(rows: pa.Table, config: UsersTableConfig) -> pa.Array:
    if config.consent and config.consent in rows.column_names:
        return as_flags(rows.column(config.consent), name=config.consent)
    return pa.repeat(config.consent is None, len(rows))


def _without_consent(users: pa.Table, refused: pa.ChunkedArray) -> pa.Table:
    """The user table in which nobody of `refused` (ids) consents."""
    consent = pc.and_(users.column("consent"), pc.invert(pc.is_in(users.column("user_id"), value_set=refused)))
    return users.set_column(users.column_names.index("consent"), USERS.field("consent"), consent)


def _joined(rows: pa.Table, name: str) -> pa.Array:
    """A column for the template; the elements of a list are joined by commas."""
    if name not in rows.column_names:
        return pa.nulls(len(rows), pa.string())
    column = rows.column(name)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return pa.array([", ".join(values) for values in as_lists(column, name=name, separator="")], pa.string())
    return as_text(column, name=name)


def _categories(rows: pa.Table, config: ItemsTableConfig) -> list[list[str]]:
    """Distinct categories of each item; those of several columns are told apart as `column:value`."""
    mark = len(config.categories) > 1
    result: list[list[str]] = [[] for _ in range(len(rows))]
    for name in config.categories:
        if name not in rows.column_names:
            continue
        for mine, values in zip(
            result, as_lists(rows.column(name), name=name, separator=config.separator), strict=True
        ):
            mine += [f"{name}:{value}" if mark else value for value in values]
    return [list(dict.fromkeys(values)) for values in result]


def _numbers(rows: pa.Table, names: Sequence[str]) -> pa.Array:
    columns = {name: _bounded(rows.column(name), name=name) for name in names if name in rows.column_names}
    return map_of(columns, rows=len(rows)).cast(ITEMS.field("numeric").type)


def _bounded(column: pa.ChunkedArray, *, name: str) -> pa.Array:
    """Numbers as those of events: null where one is too large for the model to reckon with."""
    numbers = as_numbers(column, name=name)
    return pc.if_else(pc.less_equal(pc.abs(numbers), LARGEST_VALUE), numbers, pa.scalar(None, pa.float64()))


def _unread(rows: pa.Table, names: Sequence[str]) -> dict[str, int]:
    """How many values of numeric columns were given and are no numbers of use."""
    lost = {}
    for name in names:
        if name in rows.column_names:
            column = rows.column(name)
            without = pc.and_(is_given(column, name=name), pc.is_null(_bounded(column, name=name)))
            lost[name] = pc.sum(without).as_py() or 0
    return {name: count for name, count in lost.items() if count}


def _repeats(ids: pa.Array, *, seen: set[str]) -> Iterator[bool]:
    for name in ids.to_pylist():
        yield name in seen
        if name is not None:
            seen.add(name)


def _size(block: Lines) -> int:
    return len(block.rows) + len(block.broken)


def _without_id(file: TableFile, rows: pa.Table, read: Sequence[ReadIds], *, reason: str) -> list[pa.Table]:
    """The rejected rows that lack an id: one was inexact, or unreadable, or none was given (`reason`)."""
    null, inexact, unreadable = (
        reduce(pc.or_, of) for of in zip(*((pc.is_null(o.ids), o.inexact, o.unreadable) for o in read), strict=True)
    )
    faults = (inexact, INEXACT_ID), (pc.and_not(unreadable, inexact), UNREADABLE_ID)
    missing = pc.and_not(null, pc.or_(inexact, unreadable))
    return [_rejects(file, rows, rejected, reason=why) for rejected, why in (*faults, (missing, reason))]


def _rejects(file: TableFile, rows: pa.Table, rejected: pa.Array, *, reason: str) -> pa.Table:
    found = rows.filter(rejected)
    content = found.drop_columns([ROW]).to_pylist()
    return _quarantine(
        file, found.column(ROW).to_pylist(), reason, [orjson.dumps(row, default=str).decode() for row in content]
    )


def _broken(file: TableFile, lines: Sequence[tuple[int, str]]) -> pa.Table:
    details = [orjson.dumps({"line": text}).decode() for _, text in lines]
    return _quarantine(file, [number for number, _ in lines], BROKEN_LINE, details)


def _quarantine(file: TableFile, rows: Sequence[int], reason: str, details: Sequence[str]) -> pa.Table:
    count = len(rows)
    return pa.table([[file.place.name] * count, rows, [reason] * count, details], schema=QUARANTINE)
