"""Anyone's log in Parquet, CSV or JSON lines: the recipe kind `files`. Also what compaction wrote back is read by this."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace

import pyarrow as pa
import ray.data

from clm_ray.config.recipe import Recipe
from clm_ray.config.source import EventsTableConfig
from clm_ray.data.clean import CLEANED, CONTEXT, Rules, broken_rows, clean_rows, rules_of
from clm_ray.data.code import code_digest
from clm_ray.data.kept import KeptTable, open_kept
from clm_ray.data.sources import Reading, Source
from clm_ray.data.sources.catalogue import read_availability, read_items, read_users
from clm_ray.data.sources.tables import Piece, TableFile, open_table, pieces_of, read_piece, resolve_columns
from clm_ray.data.subjects import AS_THEY_ARE
from clm_ray.errors import ConfigError

EVENT_COLUMNS = ("event_id", "user_id", "item_id", "event_type", "timestamp", "value", "decision_id")
_CODE = (
    "data/buckets.py",
    "data/clean.py",
    "data/duplicates.py",
    "data/kept.py",
    "data/normalise.py",
    "data/sources",
    "data/subjects.py",
    "data/times.py",
    "privacy.py",
    "schema.py",
)
"""What decides what a row becomes."""


def read_files(recipe: Recipe, reading: Reading) -> Source:
    """The log and tables that the recipe names.

    Raises DataError (no such file, damaged file), SchemaError (missing column), ConfigError (mapping to what does not exist).
    """
    config = recipe.source
    assert config.events is not None, "the recipe was checked"
    source = read_events(config.events, reading, recipe=recipe, field="source.events", first_file=0)
    parts = {
        "items": config.items and read_items(config.items),
        "users": config.users and read_users(config.users),
        "availability": config.availability and read_availability(config.availability),
    }
    return replace(
        source,
        **{name: part.table for name, part in parts.items() if part},
        beside={f"source.{name}": part for name, part in parts.items() if part},
        default_consent=config.users is None or config.users.consent is None,
    )


def read_events(
    config: EventsTableConfig, reading: Reading, *, recipe: Recipe, field: str, first_file: int, ours: bool = False
) -> Source:
    """The log of one table of events; its files are counted from `first_file`.

    ours: compaction wrote them. So `context` is the contract's, which else is a column like others, read where the recipe names it; and they may
    have the type of served slates, which else is unknown unless the recipe names it.
    """
    files = open_table(config, field=field)
    context = {name: f"{CONTEXT}.{name}" for name in config.context_columns}
    mapping = {name: column for name, column in config.columns.items() if name not in context}
    mapping |= {entry: config.columns.get(name, name) for name, entry in context.items()}
    somewhere = [name for name, needed in _needed(recipe).items() if needed]
    whole = [CONTEXT] if ours or CONTEXT in mapping else []
    if whole and context:
        raise ConfigError(
            "context is read whole or by columns, not both",
            field=f"{field}.columns.{CONTEXT}",
            value=mapping[CONTEXT],
            fix="leave it out, or leave context_columns out",
        )
    columns = dict(
        resolve_columns(
            files,
            config.model_copy(update={"columns": mapping}),
            field=field,
            required=["user_id", "timestamp", *([] if config.event_type else ["event_type"])],
            somewhere=somewhere,
            optional=[*EVENT_COLUMNS, *whole, *context.values()],
        )
    )
    if config.event_type:
        columns.pop("event_type", None)
    types = tuple(recipe.event_types) if ours else recipe.log_types
    rules = _rules(config, recipe=recipe, types=types, now_us=reading.now_us, field=field)
    rules = replace(rules, subjects=reading.subjects, names=columns)
    kept = _kept(config, reading, files, columns=columns, rules=rules, first_file=first_file)
    return Source(
        rows=_rows(files, columns=columns, rules=rules, first_file=first_file, only=kept.fresh if kept else None),
        files=tuple(file.place.name for file in files),
        brings_ids="event_id" in columns,
        unchecked=tuple((name, mapping.get(name, name)) for name in dict.fromkeys((*somewhere, *mapping)))
        if config.format == "jsonl"
        else (),
        kept=kept,
    )


def _kept(
    config: EventsTableConfig,
    reading: Reading,
    files: Sequence[TableFile],
    *,
    columns: dict[str, str],
    rules: Rules,
    first_file: int,
) -> KeptTable | None:
    """What an earlier call has read of these files in the same way: the same columns, rules, formats, and the same code. The clock is not part of
    it (a log with events in the future is not kept), nor are the users who were erased (theirs are removed from what is kept)."""
    if reading.keep is None:
        return None
    pseudonyms = rules.subjects.pseudonyms
    how = asdict(replace(rules, latest_us=0, subjects=AS_THEY_ARE)) | {
        "columns": columns,
        "format": config.format,
        "delimiter": config.delimiter,
        "pseudonyms": pseudonyms.fingerprint() if pseudonyms else None,
        "code": code_digest(*_CODE),
        "arrow": pa.__version__,
    }
    return open_kept(reading.keep, reading=how, files=[file.place.identity() for file in files], first_file=first_file)


def _needed(recipe: Recipe) -> dict[str, bool]:
    types = recipe.event_types.values()
    labelled = any({"positive", "negative"} & set(t.roles) or t.positive_from is not None for t in types)
    return {"item_id": labelled, "value": any(t.value != "none" for t in types)}


def _rules(config: EventsTableConfig, *, recipe: Recipe, types: tuple[str, ...], now_us: int, field: str) -> Rules:
    for key, name in {**config.event_type_map, "event_type": config.event_type}.items():
        if name is not None and name not in types:
            raise ConfigError(
                "is not one of the recipe's event types",
                field=f"{field}.event_type" if key == "event_type" else f"{field}.event_type_map.{key}",
                value=name,
                fix=f"one of {sorted(types)}, or add it to event_types (roles: [] keeps it without using it)",
            )
    rules = rules_of(recipe, now_us=now_us, timezone=config.timezone, time_unit=config.time_unit)
    return replace(rules, types=types, constant_type=config.event_type, type_map=dict(config.event_type_map))


def _rows(
    files: Sequence[TableFile],
    *,
    columns: dict[str, str],
    rules: Rules,
    first_file: int,
    only: Sequence[int] | None = None,
) -> ray.data.Dataset:
    """A lazy dataset: one task per piece, which reads and cleans it block by block. `only`: positions of files (None: all)."""
    pieces = [piece for piece in pieces_of(files) if only is None or piece.file in only]
    tasks = [pa.table({"piece": pa.array([i], pa.int32())}) for i in range(len(pieces))]
    if not tasks:
        return ray.data.from_arrow(CLEANED.empty_table())
    return ray.data.from_arrow(tasks).map_batches(
        _reader(tuple(files), tuple(pieces), columns, rules, first_file), batch_format="pyarrow", batch_size=None
    )


def _reader(
    files: Sequence[TableFile], pieces: Sequence[Piece], columns: dict[str, str], rules: Rules, first_file: int
) -> Callable[[pa.Table], Iterator[pa.Table]]:
    def read(task: pa.Table) -> Iterator[pa.Table]:
        for number in task.column("piece").to_pylist():
            piece = pieces[number]
            yield CLEANED.empty_table()
            for block in read_piece(files[piece.file], piece, columns=columns):
                file = first_file + piece.file
                if block.rows.num_rows:
                    yield clean_rows(block.rows, rules=rules, file=file)
                if block.broken:
                    yield broken_rows(block.broken, rules=rules, file=file)

    return read
