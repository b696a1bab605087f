"""Bringing a database to the tables of this version, with Alembic; also `python -m clm_ray.store.migrate URL`.

One process migrates, in one transaction, while the others wait. A store of an older version is upgraded with its data, one of a newer version
refused. Migrations add; they do not take away what replicas of the version before still use, so that an update needs no gap.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, column, inspect, select, table

from clm_ray.errors import ClmError, StoreError
from clm_ray.store.engine import Lock, hold, make_engine, reading, writing
from clm_ray.store.settings import get_setting
from clm_ray.store.tables import SETTINGS

REVISION = "r0008_slates_of_user"
"""The newest file of migrations/versions."""
FOLDER = Path(__file__).with_name("migrations")
_FIRST = "r0001_first_tables"
_VERSION_TABLE = "store_revision"
_COMMAND = "python -m clm_ray.store.migrate URL"


def ensure_tables(engine: Engine, *, create: bool) -> None:
    """Make or upgrade the tables when `create`, or make sure that they are those of this version.

    Raises StoreError: no tables or older ones (`create` false), tables of a newer version.
    """
    with reading(engine) as connection:
        found = revision_of(connection)
        empty = not inspect(connection).has_table(SETTINGS.name)
    if found == REVISION:
        return
    if not create:
        fix = "run jobs/publish.py first" if empty else f"run {_COMMAND}"
        problem = "has no tables" if empty else f"has tables of an older version ({found})"
        raise StoreError(problem, field="store.url", value=str(engine.url), fix=fix)
    with writing(engine) as connection:
        hold(connection, Lock.MIGRATION)
        upgrade(connection)


def revision_of(connection: Connection) -> str | None:
    """The revision of a database's tables, None where it has none. Raises StoreError for tables that this version does not know."""
    found = None
    if inspect(connection).has_table(_VERSION_TABLE):
        found = connection.execute(select(column("version_num")).select_from(table(_VERSION_TABLE))).scalar()
    elif inspect(connection).has_table(SETTINGS.name):
        found = _FIRST if (schema := get_setting(connection, "schema")) == "1" else f"schema {schema}"
    if found not in (None, REVISION) and found not in revisions():
        raise StoreError(
            f"has tables of a newer version ({found}); this one knows those up to {REVISION}",
            field="store.url",
            value=str(connection.engine.url),
            fix="use the clm_ray that migrated it, or a newer one",
        )
    return found


def upgrade(connection: Connection) -> None:
    """Bring the tables to `REVISION`, within the caller's transaction."""
    config = _config()
    config.attributes.update(connection=connection, version_table=_VERSION_TABLE)
    found = revision_of(connection)
    if found == _FIRST:
        command.stamp(config, _FIRST)
    if found != REVISION:
        command.upgrade(config, REVISION)


def revisions() -> list[str]:
    """All revisions that this version knows, oldest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]


def main(argv: Sequence[str] | None = None) -> None:
    """Make or upgrade the tables at a URL and say what was done."""
    parser = argparse.ArgumentParser(
        prog="python -m clm_ray.store.migrate", description="Make or upgrade a store's tables."
    )
    parser.add_argument("url", help="SQLAlchemy URL of the store; PostgreSQL passwords are better kept in ~/.pgpass")
    url = parser.parse_args(argv).url
    engine = make_engine(url, create=True, connections=1)
    try:
        with reading(engine) as connection:
            before = revision_of(connection)
        ensure_tables(engine, create=True)
    finally:
        engine.dispose()
    print(f"tables: {before or 'none'} → {REVISION}" if before != REVISION else f"tables are of {REVISION} already")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


if __name__ == "__main__":
    try:
        main()
    except ClmError as error:
        sys.exit(str(error))
