"""Opening a database and its two kinds of transaction: reading and writing. SQLite and PostgreSQL, chosen by the URL.

A writing transaction on SQLite takes the write lock when it begins (BEGIN IMMEDIATE): what it has read cannot change before it
commits, and it waits for other writers instead of failing half-way. On PostgreSQL writers run beside each other: what must not change
is locked by row (`with_for_update`), or by name (`hold`), and a conflict is settled by INSERT .. ON CONFLICT. On both, what was
committed is on disk (synchronous=FULL; synchronous_commit is never off).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Table, create_engine, event, func, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.url import URL
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, InterfaceError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from clm_ray.errors import StoreError

BUSY_MS = 30_000
"""How long a writer waits for another one before it gives up."""
CONNECT_S = 5
"""How long a connection to PostgreSQL may take, where the URL does not say (`?connect_timeout=`)."""
_WRITE = "clm_write"
_IN_LIMIT = 500
_LOCK_CLASS = 0x434C4D
_USE = "use sqlite:///path or postgresql://user@host/database"

T = TypeVar("T")


class Lock(IntEnum):
    """What `hold` can hold: one number each. APPEND, BASES: shared by whoever adds rows about users (BASES: by who loads a dataset, which takes long),
    taken alone by compaction and by erasures, which must not miss a row that is not committed yet. Take them before any row is locked."""

    MIGRATION = 1
    APPEND = 2
    AUDIT = 3
    ITEMS = 4
    BASES = 5


def make_engine(url: str, *, create: bool, connections: int) -> Engine:
    """An engine for `url` that keeps at most `connections` open, or as many as the URL says (`?connections=`).

    Raises StoreError: not a URL, a backend that is not supported, no such file (`create` false).
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError("not an SQLAlchemy URL", field="store.url", value=url, fix=_USE) from error
    if "connections" in parsed.query:
        connections = _count(parsed)
        parsed = parsed.difference_update_query(["connections"])
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return _postgres(parsed, connections)
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return _sqlite(parsed, create, connections)
    raise StoreError("backend is not supported", field="store.url", value=_shown(parsed), fix=_USE)


def is_sqlite(connection: Connection | Engine) -> bool:
    """SQLite has one writer at a time, and no locks of its own beside that."""
    return connection.dialect.name == "sqlite"


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One consistent view of the store."""
    if not is_sqlite(engine):
        engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with told(engine), engine.begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction that may write; durable when the block is left without an error."""
    with told(engine), engine.execution_options(**{_WRITE: True}).begin() as connection:
        yield connection


def hold(connection: Connection, lock: Lock, *, shared: bool = False) -> None:
    """Hold a named lock until the transaction ends; on SQLite a writing transaction holds everything already."""
    if not is_sqlite(connection):
        take = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
        connection.execute(select(take(_LOCK_CLASS, int(lock))))


def overwrite_deleted(engine: Engine, tables: Iterable[Table]) -> None:
    """Leave as little of deleted rows behind as the database can.

    SQLite overwrites them (`secure_delete`) once its log is written back into the file. PostgreSQL frees their space by VACUUM;
    its write-ahead log and your backups keep them for as long as you keep those.
    """
    with told(engine), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if is_sqlite(connection):
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            for table in tables:
                connection.exec_driver_sql(f'VACUUM "{table.name}"')


def insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """INSERT with ON CONFLICT, in the words of the connection's database."""
    return sqlite.insert(table) if is_sqlite(connection) else postgresql.insert(table)


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """Lists short enough for one IN (...)."""
    rest = iter(values)
    while part := list(islice(rest, _IN_LIMIT)):
        yield part


@contextmanager
def told(engine: Engine) -> Iterator[None]:
    """Say in our own words that the database cannot be used. A broken constraint is a bug and stays what it is."""
    try:
        yield
    except IntegrityError:
        raise
    except (DatabaseError, InterfaceError, PoolTimeoutError) as error:
        fix = "check that the server is up, the role may use the database and max_connections is enough"
        if is_sqlite(engine):
            fix = "check that the file is writable and no other process holds its lock"
        raise StoreError(
            f"the store cannot be used: {str(getattr(error, 'orig', error)).strip()}",
            field="store.url",
            value=_shown(engine.url),
            fix=fix,
        ) from error


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def _count(url: URL) -> int:
    given = url.query["connections"]
    if isinstance(given, str) and given.isdecimal() and int(given) > 0:
        return int(given)
    fix = "give a number above 0"
    raise StoreError("connections is not a count", field="store.url", value=_shown(url), fix=fix)


def _sqlite(url: URL, create: bool, connections: int) -> Engine:
    if not url.database or url.database == ":memory:":
        fix = "use sqlite:///path"
        raise StoreError("a store is shared by processes and needs a file", field="store.url", value=str(url), fix=fix)
    path = Path(url.database)
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        raise StoreError("there is no store yet", field="store.url", value=str(url), fix="run jobs/publish.py first")
    engine = create_engine(
        url,
        connect_args={"timeout": BUSY_MS / 1000},
        pool_size=connections,
        max_overflow=0,
        pool_timeout=BUSY_MS / 1000,
        hide_parameters=True,  # errors are logged, and what is written is personal
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgres(url: URL, connections: int) -> Engine:
    if not url.database:
        fix = "name the database: postgresql://user@host/database"
        raise StoreError("names no database", field="store.url", value=_shown(url), fix=fix)
    usual = {"connect_timeout": str(CONNECT_S), "application_name": "clm_ray"}
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg", query={**usual, **url.query}),
            pool_size=connections,
            max_overflow=0,
            pool_timeout=BUSY_MS / 1000,
            pool_pre_ping=True,
            hide_parameters=True,
            isolation_level="READ COMMITTED",  # whatever the server's default: each statement sees what others committed
        )
    except (ImportError, NoSuchModuleError) as error:
        fix = "pip install 'clm-ray[postgres]'"
        raise StoreError("PostgreSQL needs psycopg", field="store.url", value=_shown(url), fix=fix) from error
    event.listen(engine, "connect", _prepare_postgres)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says, not where sqlite3 guesses
    for pragma in (
        f"busy_timeout={BUSY_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _prepare_postgres(connection: Any, _record: object) -> None:
    """A server set to acknowledge before the disk does is asked not to; stronger settings stay."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {BUSY_MS}")
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
    connection.commit()
