"""The log of one recipe: read, cleaned, deduplicated and counted, once; the first half of `prepare`.

    source ── clean rows ──┬─▶ by bucket (`settle`): ids from content, duplicates ─▶ held by Ray
    feedback ─ clean rows ─┘

Everything row by row runs in Ray Data tasks, one block at a time; only what the contract keeps on one machine (catalogue,
users, rejected rows, counts) comes to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from clm_ray.config.recipe import Recipe
from clm_ray.config.workspace import POINTER, Workspace
from clm_ray.data.changed_items import read_changed_items, with_changed_items
from clm_ray.data.clean import CLEANED, ERASED, HIDDEN, IN_FUTURE
from clm_ray.data.duplicates import DUPLICATE
from clm_ray.data.manifest import read_manifest
from clm_ray.data.rejected import REJECTED_FILE, SHARE, by_reason, check_table, too_many
from clm_ray.data.settle import by_bucket, settle
from clm_ray.data.sources import Reading, Source, TableRead
from clm_ray.data.sources.complete_journey import read_complete_journey
from clm_ray.data.sources.feedback import read_feedback
from clm_ray.data.sources.files import read_files
from clm_ray.data.sources.movielens import read_movielens
from clm_ray.data.subjects import Subjects, read_tombstones
from clm_ray.data.summary import SUMMARY, Summary, summarise, summarise_block
from clm_ray.errors import ClmError, ConfigError, DataError, SchemaError
from clm_ray.privacy import Pseudonyms, check_fingerprint, open_pseudonyms
from clm_ray.schema import CHANGED_ITEMS, EVENTS, ITEMS, QUARANTINE, USERS

READERS: dict[str, Callable[..., Source]] = {
    "complete_journey": read_complete_journey,
    "movielens_100k": read_movielens,
    "files": read_files,
}
_REJECTED = ["file", "row", "reason", "detail"]
_EXAMPLES = 20
"""Examples of each reason that one block contributes to that file."""


@dataclass(frozen=True)
class Counts:
    """What became of the rows of the log: read = kept + duplicates + erased + sum of rejected.

    types: kept rows by event type. users, items: distinct among the kept rows; pairs: distinct (user, item). first_us, last_us: their
    time range, UTC µs. from_feedback: kept rows that compaction wrote back. unlisted_items: items of the log or of the
    availability that the catalogue lacks (their id is their text). tables: rejected rows of the other tables by reason. erased: rows of
    users who were erased. unread: table and column (users.age) → how many values of the other tables are no numbers of use and count as
    missing.
    """

    read: int
    kept: int
    duplicates: int
    rejected: dict[str, int]
    types: dict[str, int]
    users: int
    items: int
    pairs: int
    first_us: int
    last_us: int
    from_feedback: int = 0
    unlisted_items: int = 0
    tables: dict[str, int] = field(default_factory=dict)
    erased: int = 0
    unread: dict[str, int] = field(default_factory=dict)

    @property
    def rejected_share(self) -> float:
        """Share of the rows read that were rejected; exact duplicates are not counted as rejected."""
        return sum(self.rejected.values()) / self.read if self.read else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Log:
    """A clean log.

    events: EVENTS and `bucket` (int32), in any order, but each bucket whole in one block. items: ITEMS, row 0 reserved, then by
    id, every item that events or availability name. users: USERS by id, every user of the events and of the user table. availability:
    AVAILABILITY with dictionary-encoded columns. quarantine: QUARANTINE, by source and row.
    """

    events: ray.data.Dataset
    items: pa.Table
    users: pa.Table
    availability: pa.Table | None
    quarantine: pa.Table
    counts: Counts


def read_log(recipe: Recipe, *, workspace: Workspace, now_us: int) -> Log:
    """Read the log that the recipe names, and what was written back to it.

    now_us: the clock, UTC µs; events later than it by `clean.future_days` are rejected. Raises DataError (nothing there, nothing left),
    SchemaError (a column is missing), QuarantineError (too many rows rejected; examples go to ROOT/datasets/rejected.parquet),
    AssetError (a public data set is missing or changed), ConfigError (a mapping to what does not exist, no key for pseudonyms).
    """
    subjects = Subjects(open_pseudonyms(recipe.privacy), read_tombstones(workspace.erasures))
    reading = Reading(now_us, subjects, workspace.log / "events")
    main = READERS[recipe.source.kind](recipe, reading)
    feedback = read_feedback(
        recipe, replace(reading, keep=workspace.log / "feedback"), workspace=workspace, first_file=len(main.files)
    )
    sources = [main, *([feedback] if feedback else [])]
    if feedback:
        _check_key(subjects.pseudonyms, workspace)
    beside = _beside(sources, subjects, recipe=recipe, workspace=workspace)
    files = [name for source in sources for name in source.files]
    availability = _availability(sources, recipe=recipe)
    settled = _settle(sources, buckets=recipe.sequences.buckets)
    summary = _summary(settled, columns=[name for name, _ in main.unchecked])
    _check(settled, summary, recipe=recipe, workspace=workspace, files=files)
    _check_filled(summary, main)
    for table in (source.kept for source in sources if source.kept):
        # What lies in the future now will not always: such a log is read again.
        table.abandon() if summary.reasons.get(IN_FUTURE) else table.commit()
    changed = (
        read_changed_items(workspace.feedback / "items") if recipe.source.feedback else CHANGED_ITEMS.empty_table()
    )
    named = _named_items(summary.items, availability)
    items, missing = complete_items(with_changed_items(main.items, changed), named=named)
    listed = None if main.users is None else _known_as(main.users, subjects, seen=summary.users)
    users = complete_users(listed, named=summary.users, consent=main.default_consent)
    aside = [read.rejected for read in beside.values()]
    return Log(
        events=settled.map_batches(_kept, batch_format="pyarrow", batch_size=None),
        items=items,
        users=users,
        availability=availability,
        quarantine=pa.concat_tables([_quarantine(_collect(settled, _rejected), files=files), *aside]),
        counts=_counts(summary, beside, main_files=len(main.files), unlisted=0 if main.items is None else missing),
    )


def complete_items(items: pa.Table | None, *, named: pa.Array) -> tuple[pa.Table, int]:
    """The catalogue with row 0, sorted by id, and a row for each of the `named` ids it lacks; and how many it lacked."""
    listed = ITEMS.empty_table() if items is None else items
    missing = named.filter(pc.invert(pc.is_in(named, value_set=listed.column("item_id"))))
    table = pa.concat_tables([listed, _bare_items(missing)]).sort_by("item_id")
    return pa.concat_tables([_bare_items(pa.array([""])), table]).combine_chunks(), len(missing)


def complete_users(users: pa.Table | None, *, named: pa.Array, consent: bool) -> pa.Table:
    """The user table, sorted by id, with a row for each of the `named` ids it lacks."""
    listed = USERS.empty_table() if users is None else users
    missing = named.filter(pc.invert(pc.is_in(named, value_set=listed.column("user_id"))))
    columns = {name: pa.nulls(len(missing), USERS.field(name).type) for name in ("categorical", "numeric")}
    columns |= {
        "user_id": missing,
        "consent": pa.repeat(consent, len(missing)),
        "timezone": pa.repeat("UTC", len(missing)),
    }
    bare = pa.table({name: columns[name] for name in USERS.names}, schema=USERS)
    return pa.concat_tables([listed, bare]).sort_by("user_id").combine_chunks()


def _check_key(pseudonyms: Pseudonyms | None, workspace: Workspace) -> None:
    """What came back from the endpoint knows users by the pseudonyms of the dataset that was served."""
    if (workspace.datasets / POINTER).is_file():
        served = read_manifest(workspace.current("datasets")).get("pseudonyms")
        check_fingerprint(pseudonyms, served, field="privacy.pseudonyms")


def _known_as(users: pa.Table, subjects: Subjects, *, seen: pa.Array) -> pa.Table:
    """The user table under the ids that the log has, without those who were erased and not seen since."""
    ids = subjects.ids(users.column("user_id").combine_chunks())
    users = users.set_column(users.column_names.index("user_id"), USERS.field("user_id"), ids)
    gone = subjects.erased(ids, pa.nulls(len(ids), pa.int64()))
    return users.filter(pc.or_(pa.array(~gone), pc.is_in(ids, value_set=seen)))


def _beside(
    sources: Sequence[Source], subjects: Subjects, *, recipe: Recipe, workspace: Workspace
) -> dict[str, TableRead]:
    """The tables beside the log, by the key of the recipe; their rejected rows without what stood in them where users have pseudonyms. Raises
    QuarantineError for one of which too much was rejected."""
    found = {key: read for source in sources for key, read in source.beside.items()}
    for key, read in found.items():
        if subjects.pseudonyms is not None:
            rejected = read.rejected
            hidden = pa.repeat(HIDDEN, rejected.num_rows)
            place = rejected.column_names.index("detail")
            found[key] = replace(read, rejected=rejected.set_column(place, rejected.schema.field("detail"), hidden))
        allowed = recipe.clean.max_rejected_share
        check_table(found[key], allowed=allowed, field=key, target=workspace.datasets / REJECTED_FILE)
    return found


def _settle(sources: list[Source], *, buckets: int) -> ray.data.Dataset:
    """Run the whole of reading: ids settled, each bucket whole in one block, held by Ray."""
    try:
        blocks = by_bucket([(source.rows, source.kept) for source in sources], buckets=buckets)
        return ray.data.from_arrow_refs(settle(blocks, ids_given=any(source.brings_ids for source in sources)))
    except Exception as error:
        if (cause := cause_of(error)) is not None:
            raise cause from None
        raise


def _kept(block: pa.Table) -> pa.Table:
    if not block.num_rows:
        block = CLEANED.empty_table()
    return block.filter(block.column("reason").is_null()).select([*EVENTS.names, "bucket"])


def _rejected(block: pa.Table) -> pa.Table:
    if not block.num_rows:
        block = CLEANED.empty_table()
    rejected = pc.fill_null(pc.not_equal(block.column("reason"), ERASED), False)
    return block.filter(rejected).select(_REJECTED)


def _examples(block: pa.Table) -> pa.Table:
    rejected = _rejected(block)
    parts = [
        rejected.filter(pc.equal(rejected.column("reason"), reason)) for reason in rejected.column("reason").unique()
    ]
    return pa.concat_tables([rejected.slice(0, 0), *(part.slice(0, _EXAMPLES) for part in parts)])


def _summary(settled: ray.data.Dataset, *, columns: list[str]) -> Summary:
    def count(block: pa.Table) -> pa.Table:
        return summarise_block(block, columns=columns) if block.num_rows else SUMMARY.empty_table()

    return summarise(_collect(settled, count))


def _collect(settled: ray.data.Dataset, what: Callable[[pa.Table], pa.Table]) -> list[pa.Table]:
    """The blocks, if any, of a small derived table."""
    task = ray.remote(what)
    return [block for block in ray.get([task.remote(block) for block in settled.to_arrow_refs()]) if block.num_rows]


def _check(
    settled: ray.data.Dataset, summary: Summary, *, recipe: Recipe, workspace: Workspace, files: list[str]
) -> None:
    """Raises DataError for an empty log, QuarantineError for one of which too much was rejected."""
    if not summary.rows:
        raise DataError(
            "the log is empty", field="source", value=files or recipe.source.kind, fix="check source.events.paths"
        )
    counts = _rejections(summary)
    rejected = sum(counts.values())
    kept = summary.rows - sum(summary.reasons.values())
    config = recipe.clean
    bounds: dict[str, float] = {str(reason): share for reason, share in config.max_rejected.items()}
    over = [reason for reason, share in bounds.items() if counts.get(reason, 0) > share * summary.rows]
    if kept and rejected <= config.max_rejected_share * summary.rows and not over:
        return
    if not counts:
        raise DataError(
            "nothing is left but rows of erased users", field="source", value=summary.rows, fix="bring a newer log"
        )
    biggest = max(over or counts, key=lambda reason: counts[reason])
    bound = f"clean.max_rejected.{biggest}" if over else SHARE
    raise too_many(
        counts,
        rows=summary.rows,
        allowed=bounds[biggest] if over else config.max_rejected_share,
        mostly=biggest,
        examples=_quarantine(_collect(settled, _examples), files=files),
        target=workspace.datasets / REJECTED_FILE,
        field=bound,
        knob=bound,
    )


def _check_filled(summary: Summary, source: Source) -> None:
    """Raises SchemaError for a column that the recipe counts on and no row has."""
    for name, column in source.unchecked:
        if not summary.filled.get(name):
            raise SchemaError(
                f"no row that was kept has a value for {name}",
                field=f"source.events.columns.{name}",
                value=column,
                fix="correct the name of the key, or leave it out of the recipe",
            )


def _quarantine(blocks: Iterable[pa.Table], *, files: list[str]) -> pa.Table:
    """Rejected rows of the log, by source and row."""
    found = pa.concat_tables([CLEANED.empty_table().select(_REJECTED), *blocks], promote_options="none")
    columns = {
        "source": pa.array(files, pa.string()).take(found.column("file")),
        **{name: found.column(name) for name in ("row", "reason", "detail")},
    }
    table = pa.table(columns, schema=QUARANTINE)
    return table.sort_by([("source", "ascending"), ("row", "ascending"), ("reason", "ascending")])


def _counts(summary: Summary, beside: Mapping[str, TableRead], *, main_files: int, unlisted: int) -> Counts:
    assert summary.first_us is not None
    assert summary.last_us is not None
    return Counts(
        read=summary.rows,
        kept=summary.rows - sum(summary.reasons.values()),
        duplicates=summary.reasons.get(DUPLICATE, 0),
        erased=summary.reasons.get(ERASED, 0),
        rejected=_rejections(summary),
        types=summary.types,
        users=len(summary.users),
        items=len(summary.items),
        pairs=summary.pairs,
        first_us=summary.first_us,
        last_us=summary.last_us,
        from_feedback=sum(count for file, count in summary.files.items() if file >= main_files),
        unlisted_items=unlisted,
        tables=by_reason(pa.concat_tables([QUARANTINE.empty_table(), *(read.rejected for read in beside.values())])),
        unread={
            f"{key.rpartition('.')[2]}.{name}": count
            for key, read in beside.items()
            for name, count in sorted(read.unread.items())
        },
    )


def _rejections(summary: Summary) -> dict[str, int]:
    """Rejected rows by reason; duplicates and erased users are none."""
    return {reason: count for reason, count in summary.reasons.items() if reason not in (DUPLICATE, ERASED)}


def _availability(sources: list[Source], *, recipe: Recipe) -> pa.Table | None:
    tables = [source.availability for source in sources if source.availability is not None]
    if sources[0].availability is None and recipe.impressions.negatives == "availability":
        raise ConfigError(
            "there is no availability table",
            field="impressions.negatives",
            value="availability",
            fix="name it in source.availability, or choose explicit or popularity",
        )
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks() if tables else None


def _named_items(items: pa.Array, availability: pa.Table | None) -> pa.Array:
    """Distinct item ids of log and availability, sorted."""
    parts = [items]
    if availability is not None:
        parts += [chunk.dictionary for chunk in availability.column("item_id").chunks]
    distinct = pc.unique(pa.chunked_array(parts, pa.string()))
    return distinct.take(pc.sort_indices(distinct))


def _bare_items(ids: pa.Array) -> pa.Table:
    """Items of which nothing is known but the id."""
    columns = {field.name: pa.nulls(len(ids), field.type) for field in ITEMS}
    columns |= {"item_id": ids, "text": ids, "categories": pa.array([[]] * len(ids), pa.list_(pa.string()))}
    return pa.table(columns, schema=ITEMS)


def cause_of(error: BaseException | None) -> ClmError | None:
    """The ClmError behind what Ray raises for a failed task."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ClmError) and type(error).__module__ == ClmError.__module__:
            return error
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None
