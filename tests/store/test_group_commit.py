"""Writes of one process that come together are committed together, and none of them suffers from another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier, Event

import pytest
from sqlalchemy import Connection, Engine, event, select, update

from clm_ray.errors import StoreError
from clm_ray.store.audit import AuditEntry
from clm_ray.store.commit import GroupCommit
from clm_ray.store.engine import make_engine, reading
from clm_ray.store.migrate import ensure_tables
from clm_ray.store.settings import put_setting
from clm_ray.store.tables import SETTINGS


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    engine = make_engine(store_url, create=True, connections=4)
    ensure_tables(engine, create=True)
    yield engine
    engine.dispose()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


class Jam:
    """Keeps the writer busy until it is let go, so that what comes meanwhile becomes one group."""

    def __init__(self, commits: GroupCommit, pool: ThreadPoolExecutor) -> None:
        self._begun, self._go = Event(), Event()
        self._commits, self._pool = commits, pool
        self.first = pool.submit(commits.run, self._wait)
        self._begun.wait()

    def _wait(self, _connection: Connection, _audited: list[AuditEntry]) -> None:
        self._begun.set()
        self._go.wait()

    def write(self, key: str, *, fail: Exception | None = None, cancelled: Event | None = None) -> Future[str]:
        def work(connection: Connection, _audited: list[AuditEntry]) -> str:
            put_setting(connection, key, "written")
            if fail is not None:
                raise fail
            return key

        return self._pool.submit(self._commits.run, work, cancelled=cancelled)

    def release(self, *futures: Future[str]) -> None:
        """Let go once the futures' calls wait."""
        while self._commits.waiting < len(futures):
            time.sleep(0.001)
        self._go.set()
        self.first.result()


def written(engine: Engine) -> set[str]:
    with reading(engine) as connection:
        return set(connection.execute(select(SETTINGS.c.key).where(SETTINGS.c.value == "written")).scalars())


def test_calls_that_wait_share_a_transaction(engine: Engine, pool: ThreadPoolExecutor) -> None:
    commits = GroupCommit(engine)
    count: list[object] = []
    event.listen(engine, "commit", count.append)
    jam = Jam(commits, pool)
    futures = [jam.write(f"k{n}") for n in range(10)]
    jam.release(*futures)
    assert [future.result() for future in futures] == [f"k{n}" for n in range(10)]
    assert written(engine) == {f"k{n}" for n in range(10)}
    assert len(count) <= 3, "the one that was in the way, the group, and the reading"


def test_a_group_has_a_largest_size(engine: Engine, pool: ThreadPoolExecutor) -> None:
    jam = Jam(GroupCommit(engine, most=3), pool)
    futures = [jam.write(f"k{n}") for n in range(10)]
    jam.release(*futures)
    assert [future.result() for future in futures] == [f"k{n}" for n in range(10)]


def test_one_that_fails_takes_nobody_along(engine: Engine, pool: ThreadPoolExecutor) -> None:
    jam = Jam(GroupCommit(engine), pool)
    good = [jam.write("a"), jam.write("b")]
    bad = [jam.write("x", fail=ZeroDivisionError("mine")), jam.write("y", fail=StoreError("mine too"))]
    good.append(jam.write("c"))
    jam.release(*good, *bad)
    assert [future.result() for future in good] == ["a", "b", "c"]
    with pytest.raises(ZeroDivisionError):
        bad[0].result()
    with pytest.raises(StoreError, match="mine too"):
        bad[1].result()
    assert written(engine) == {"a", "b", "c"}


def test_who_has_given_up_is_not_written(engine: Engine, pool: ThreadPoolExecutor) -> None:
    jam, gone = Jam(GroupCommit(engine), pool), Event()
    futures = [jam.write("a"), jam.write("late", cancelled=gone), jam.write("b", cancelled=Event())]
    gone.set()
    jam.release(*futures)
    with pytest.raises(StoreError, match="nobody waits"):
        futures[1].result()
    assert (futures[0].result(), futures[2].result(), written(engine)) == ("a", "b", {"a", "b"})


def test_giving_up_counts_until_the_commit(engine: Engine) -> None:
    gone, runs = Event(), []

    def work(connection: Connection, _audited: list[AuditEntry]) -> None:
        runs.append(1)
        put_setting(connection, "late", "written")
        gone.set()

    with pytest.raises(StoreError, match="nobody waits"):
        GroupCommit(engine).run(work, cancelled=gone)
    assert (len(runs), written(engine)) == (1, set())


def test_an_interrupted_leader_leaves_nobody_waiting(engine: Engine, pool: ThreadPoolExecutor) -> None:
    commits = GroupCommit(engine)
    jam = Jam(commits, pool)

    class Interrupted(BaseException):
        pass

    def work(_connection: Connection, _audited: list[AuditEntry]) -> None:
        raise Interrupted

    futures = [jam.write("a"), pool.submit(commits.run, work), jam.write("b")]
    jam.release(*futures)
    outcomes = {type(future.exception()) for future in futures}
    assert outcomes <= {Interrupted, StoreError, type(None)}
    assert Interrupted in outcomes or StoreError in outcomes
    assert commits.run(lambda c, _: put_setting(c, "after", "written")) is None
    assert "after" in written(engine)


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_deadlock_between_processes_is_tried_again(engine: Engine, pool: ThreadPoolExecutor) -> None:
    for key in ("a", "b"):
        GroupCommit(engine).run(lambda c, _, key=key: put_setting(c, key, ""))
    both, written_once = Barrier(2), Event()

    def lock(first: str, second: str) -> int:
        runs = 0

        def work(connection: Connection, _audited: list[AuditEntry]) -> None:
            nonlocal runs
            runs += 1
            if runs > 1:  # else it may be there before the other one wakes up, and they lock each other out once more
                assert written_once.wait(60)
            for key in (first, second):
                connection.execute(update(SETTINGS).where(SETTINGS.c.key == key).values(value="written"))
                if runs == 1 and key == first:
                    both.wait()

        GroupCommit(engine).run(work)  # a writer of its own, as another process has
        written_once.set()
        return runs

    runs = [pool.submit(lock, "a", "b"), pool.submit(lock, "b", "a")]
    assert sorted(future.result() for future in runs) == [1, 2]
    assert written(engine) == {"a", "b"}
