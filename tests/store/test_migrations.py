"""Tables come from migrations, are those that the code uses, and take along what an older store holds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, inspect

from clm_ray.errors import StoreError
from clm_ray.store import migrate
from clm_ray.store.engine import insert, make_engine, writing
from clm_ray.store.migrations.versions import r0001_first_tables
from clm_ray.store.records import RetentionDecision, StoredEvent
from clm_ray.store.store import Store, open_store
from clm_ray.store.tables import EVENTS, METADATA, SETTINGS


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    """Of an empty database."""
    engine = make_engine(store_url, create=True, connections=1)
    yield engine
    engine.dispose()


def shape_of(connection: Connection) -> dict[str, Any]:
    """Everything that the database knows of its tables, but the table of the revision."""
    seen = inspect(connection)
    shape = {}
    for table in set(seen.get_table_names()) - {"store_revision"}:
        shape[table] = {
            "columns": {c["name"]: (repr(c["type"]), c["nullable"], c["default"]) for c in seen.get_columns(table)},
            "key": seen.get_pk_constraint(table)["constrained_columns"],
            "indexes": sorted((str(i["name"]), str(i["column_names"]), i["unique"]) for i in seen.get_indexes(table)),
            "unique": sorted(str((u["name"], u["column_names"])) for u in seen.get_unique_constraints(table)),
            "checks": sorted((str(c["name"]), c["sqltext"]) for c in seen.get_check_constraints(table)),
            "foreign": sorted(
                str((f["constrained_columns"], f["referred_table"], f["referred_columns"]))
                for f in seen.get_foreign_keys(table)
            ),
        }
    return shape


def test_migrations_make_the_tables_of_the_code(engine: Engine) -> None:
    with writing(engine) as connection:
        METADATA.create_all(connection)
        declared = shape_of(connection)
        METADATA.drop_all(connection)
    migrate.ensure_tables(engine, create=True)
    with writing(engine) as connection:
        assert shape_of(connection) == declared


def test_revisions_form_one_line_that_ends_at_the_constant() -> None:
    known = migrate.revisions()
    files = sorted(path.stem for path in (migrate.FOLDER / "versions").glob("r*.py"))
    assert known == files, "each file is named as its revision, and each names the one before it"
    assert known[-1] == migrate.REVISION
    assert all(len(name) <= 32 for name in known), "the column of the revision is 32 characters long"


def test_a_store_of_the_first_release_is_upgraded_with_its_data(
    engine: Engine, store_url: str, decision: Callable[..., RetentionDecision], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = decision()
    old_event = {"event_id": "e1", "user_id": "u", "timestamp": 5, "received_at": 6, "event_type": "click"}
    with writing(engine) as connection:
        first_release(connection, monkeypatch)
        connection.execute(insert(connection, SETTINGS), {"key": "store_id", "value": "abc"})
        connection.execute(insert(connection, EVENTS), {**old_event, "context": "{}"})
        connection.execute(
            insert(connection, METADATA.tables["retention_decisions"]),
            {
                "action_id": made.action_id,
                "user_id": "u",
                "epoch": 1,
                "time": 10,
                "action": "coupon",
                "record": made.to_json(),
            },
        )
    with pytest.raises(StoreError, match=r"older version \(r0001_first_tables\).*clm_ray.store.migrate"):
        open_store(store_url, create=False)
    for _ in range(2):
        with open_store(store_url) as store:
            assert store.id() == "abc"
            assert store.histories(["u"])["u"].time_N.tolist() == [5]
            assert store.decisions_of([("u", 1)]) == {("u", 1): made}
    with open_store(store_url, create=False) as store:
        assert store.append_events([StoredEvent("e2", "u", "click", 9)], received_at=10) == ["accepted"]


def first_release(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables as the first release made them: without any record of a revision."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    monkeypatch.setattr(r0001_first_tables, "op", Operations(MigrationContext.configure(connection)))
    r0001_first_tables.upgrade()


def test_a_newer_store_is_refused_whoever_asks(store: Store, store_url: str) -> None:
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE store_revision SET version_num = 'r9999_later'")
    for create in (True, False):
        with pytest.raises(StoreError, match=r"newer version \(r9999_later\)"):
            open_store(store_url, create=create)


def test_code_of_the_first_release_refuses_an_upgraded_store(store: Store) -> None:
    """It opens stores whose setting `schema` is 1, and writes that where there is none."""
    with store.reading() as connection:
        assert connection.exec_driver_sql("SELECT value FROM settings WHERE key = 'schema'").scalar() not in (None, "1")


def open_and_write(url: str, worker: int) -> None:
    with open_store(url) as store:
        assert store.append_events([StoredEvent(f"{worker}", "u", "click", worker)], received_at=0) == ["accepted"]


def test_processes_that_start_together_migrate_once(store_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=open_and_write, args=(store_url, n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    with open_store(store_url, create=False) as store:
        assert len(store.histories(["u"])["u"]) == 3


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        migrate.main([f"sqlite:///{tmp_path / 'new.db'}"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"tables: none → {migrate.REVISION}"
    assert "already" in second
