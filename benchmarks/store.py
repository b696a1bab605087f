"""What group commit is worth: slates logged per second by several threads of one process, with it and with a transaction per call.

    python -m benchmarks.store [--calls 2000]

Stores use it on SQLite; on PostgreSQL, which writes many transactions at once, each call has its own. Each call logs one slate of ten items and returns when it is durable. PostgreSQL is a real one on the same machine, with fsync.
Writes benchmarks/results/store.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

from sqlalchemy import Engine, event

from benchmarks.postgres import fresh_schema, running_postgres
from clm_ray.store import decisions
from clm_ray.store.commit import GroupCommit
from clm_ray.store.engine import make_engine
from clm_ray.store.records import ServedSlate
from clm_ray.store.store import Store, open_store

THREADS = (1, 8, 32)
ITEMS = tuple(f"item-{n}" for n in range(10))
_ids = count()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both databases and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000, help="per measurement")
    calls = parser.parse_args(argv).calls
    with tempfile.TemporaryDirectory() as folder:
        figures: dict[str, Any] = {"calls": calls, "sqlite": measured(f"sqlite:///{folder}/store.db", calls)}
    with running_postgres(durable=True) as server, fresh_schema(server) as url:
        figures["postgresql"] = measured(url, calls)
    for backend in ("sqlite", "postgresql"):
        print(f"\n{backend:12}threads   one by one    grouped   calls per commit")
        for threads, row in figures[backend].items():
            print(f"{threads:>19} {row['alone']:>12} {row['grouped']:>10} {row['calls_per_commit']:>18}")
    from benchmarks.record import record  # which imports much

    record("store", figures)


def measured(url: str, calls: int) -> dict[str, dict[str, float]]:
    """Threads → calls per second one by one and grouped, and how many calls shared a commit."""
    figures = {}
    for threads in THREADS:
        with open_store(url, connections=threads) as store, closing_engine(url, threads) as engine:
            alone = per_second(partial(log_alone, store), calls=calls, threads=threads)
            group = GroupCommit(engine)
            with counted_commits() as commits:
                grouped = per_second(partial(log_together, group), calls=calls, threads=threads)
        figures[str(threads)] = {
            "alone": round(alone),
            "grouped": round(grouped),
            "calls_per_commit": round(calls / len(commits), 1),
        }
    return figures


def log_alone(store: Store, slate: ServedSlate) -> None:
    """A transaction for this slate alone."""
    with store.writing() as connection:
        decisions.log_slates(connection, [slate])


def log_together(group: GroupCommit, slate: ServedSlate) -> None:
    """A transaction for this slate and those that come meanwhile."""
    group.run(lambda connection, _: decisions.log_slates(connection, [slate]))


def per_second(log: Callable[[ServedSlate], None], *, calls: int, threads: int) -> float:
    """Calls per second of so many threads."""
    slates = [
        ServedSlate(f"slate-{next(_ids)}", f"user-{n % 100}", n, "release", ITEMS, (0.1,) * 10) for n in range(calls)
    ]
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(log, slates))
        return calls / (time.perf_counter() - start)


@contextmanager
def closing_engine(url: str, connections: int) -> Iterator[Engine]:
    """Connections for a group commit of its own."""
    engine = make_engine(url, create=False, connections=connections)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def counted_commits() -> Iterator[list[None]]:
    """A list that grows by one with each commit."""
    commits: list[None] = []

    def one_more(_connection: object) -> None:
        commits.append(None)

    event.listen(Engine, "commit", one_more)
    try:
        yield commits
    finally:
        event.remove(Engine, "commit", one_more)


if __name__ == "__main__":
    main()
