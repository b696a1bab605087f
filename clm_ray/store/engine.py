"""Opening a database and its two kinds of transaction: reading and writing.

A writing transaction takes SQLite's write lock when it begins (BEGIN IMMEDIATE): what it has read cannot change before it
commits, and it waits for other writers instead of failing half-way. What it committed is on disk (synchronous=FULL).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import Insert
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, InterfaceError

from clm_ray.errors import StoreError

BUSY_MS = 30_000
"""How long a writer waits for another one before it gives up."""
_WRITE = "clm_write"
_IN_LIMIT = 500

T = TypeVar("T")


def make_engine(url: str, *, create: bool) -> Engine:
    """An engine for `url`. Raises StoreError: not a URL, a backend that is not supported, no such database (`create` false)."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(
            "not an SQLAlchemy URL", field="store.url", value=url, fix="e.g. sqlite:////data/store.db"
        ) from error
    if parsed.get_backend_name() != "sqlite":
        raise StoreError(
            "backend is not supported",
            field="store.url",
            value=parsed.render_as_string(hide_password=True),
            fix="use sqlite:///path",
        )
    if not parsed.database or parsed.database == ":memory:":
        raise StoreError(
            "a store is shared by processes and needs a file", field="store.url", value=url, fix="use sqlite:///path"
        )
    path = Path(parsed.database)
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        raise StoreError("there is no store yet", field="store.url", value=url, fix="run jobs/publish.py first")
    engine = create_engine(parsed, connect_args={"timeout": BUSY_MS / 1000})
    event.listen(engine, "connect", _prepare_connection)
    event.listen(engine, "begin", _begin)
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One consistent view of the store."""
    with _told(engine), engine.begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction that holds the write lock; durable when the block is left without an error."""
    with _told(engine), engine.execution_options(**{_WRITE: True}).begin() as connection:
        yield connection


def overwrite_deleted(engine: Engine) -> None:
    """Leave no bytes of deleted rows behind: SQLite overwrites them (`secure_delete`) once its log is written back into the file."""
    with _told(engine), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def insert(table: Table) -> Insert:
    """INSERT with ON CONFLICT. PostgreSQL's construct has the same methods: choose by dialect here when it arrives."""
    return sqlite.insert(table)


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """Lists short enough for one IN (...)."""
    rest = iter(values)
    while part := list(islice(rest, _IN_LIMIT)):
        yield part


@contextmanager
def _told(engine: Engine) -> Iterator[None]:
    """Say in our own words that the database cannot be used. A broken constraint is a bug and stays what it is."""
    try:
        yield
    except IntegrityError:
        raise
    except (DatabaseError, InterfaceError) as error:
        raise StoreError(
            f"the store cannot be used: {error.orig}",
            field="store.url",
            value=engine.url.render_as_string(hide_password=True),
            fix="check that the file is writable and no other process holds its lock",
        ) from error


def _prepare_connection(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin` says, not where sqlite3 guesses
    for pragma in (
        f"busy_timeout={BUSY_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
