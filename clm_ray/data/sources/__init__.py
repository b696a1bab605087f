"""Where logs come from. Each module here turns one kind of source into the same `Source`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import ray.data

from clm_ray.data.kept import KeptTable
from clm_ray.data.subjects import AS_THEY_ARE, Subjects


@dataclass(frozen=True)
class Reading:
    """How a source is to be read. now_us: the clock, UTC µs. keep: folder for rows to be kept for the next time; None: keep none."""

    now_us: int
    subjects: Subjects = AS_THEY_ARE
    keep: Path | None = None


@dataclass(frozen=True)
class TableRead:
    """A table beside the log in its contract schema, and its rejected rows (QUARANTINE).

    rows: how many there were, those and broken lines too. unread: column → how many of its values are no numbers of use and count as missing.
    """

    table: pa.Table
    rejected: pa.Table
    rows: int
    unread: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """What one source has to say, read but not yet deduplicated.

    rows: the log, cleaned row by row (`clm_ray.data.clean.CLEANED`), lazily. files: the names that its `file` column counts
    through. items: the catalogue (schema ITEMS, ids unique, without the reserved row), None where the source has none. users: the
    user table (USERS, ids unique), None likewise. availability: AVAILABILITY, its columns dictionary-encoded.
    brings_ids: may a row come with an event id of its own? beside: of the other tables those that were read from files, by the key of the recipe.
    default_consent: the consent of users of the log whom the user table does not name. unchecked: (column or context entry of the
    contract, column of the files) that the recipe counts on, where only reading every row can tell whether any has it. kept: rows that were read
    by an earlier call and are not in `rows`, and where those of this call are kept.
    """

    rows: ray.data.Dataset
    files: tuple[str, ...]
    brings_ids: bool
    items: pa.Table | None = None
    users: pa.Table | None = None
    availability: pa.Table | None = None
    beside: Mapping[str, TableRead] = field(default_factory=dict)
    default_consent: bool = True
    unchecked: tuple[tuple[str, str], ...] = ()
    kept: KeptTable | None = None
