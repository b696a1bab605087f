"""The ledger under fire: processes reserve, book and are killed, on both databases; nothing is overspent, doubled or lost.

    python -m benchmarks.ledger [--reservations 100000] [--processes 8] [--kills 40] [--backend sqlite]

Each process decides about batches of users as `clm_ray.decide` does: it reserves the highest cost for each, draws, and books, which settles. Half of the kills
(SIGKILL) hit a process that has reserved a batch and not yet booked it, the other half one at any moment. Every other batch that a kill leaves
behind is tried again by the process that comes after, the rest is abandoned, so that its reservations must come back. The budget is too small for all, and what the dead had on lease is
out of reach until it expires: some decisions are refused.
PostgreSQL is a real one on the same machine, with fsync. Exits with an error where the books do not add up; else writes
benchmarks/results/ledger.json:

    reservations, processes, kills   what was done          per_second   reservations per second, kills and restarts included
    overspend   most by which reserved + spent + leased was above the cap, at any of the moments it was looked at (millionths)
    doubled     decisions that were booked more than once   lost         booked costs minus the budget's spent (millionths)
    unreturned  what nobody spent and nobody can have when all processes are gone and their leases have expired (millionths)
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import orjson
from sqlalchemy import func, select

from benchmarks.postgres import fresh_schema, running_postgres
from clm_ray.store.audit import DECISION
from clm_ray.store.clock import wall_us
from clm_ray.store.leases import LEASE_US
from clm_ray.store.ledger import MICROS
from clm_ray.store.records import Reservation, RetentionDecision
from clm_ray.store.store import Store, open_store
from clm_ray.store.tables import AUDIT_LOG, RETENTION_DECISIONS

BACKENDS = ("sqlite", "postgresql")
BATCH = 50
TELL_S = 10.0
COSTS = (0.0, 2.0, 5.0)


@dataclass
class Worker:
    """A running process, the batches it still has to do, and the one at which it shall be killed once it has reserved it."""

    process: Any
    pipe: Connection
    left: list[int]
    die_at: int | None


@dataclass
class Fire:
    """The run: how many kills of which kind are still to come."""

    url: str
    cap: float
    kills: int
    chance: random.Random
    killed: int = 0
    doomed: int = 0
    begun: int = 0
    abandoned: int = 0
    overspend: int = 0
    workers: list[Worker] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> None:
    """Run on both databases and write the figures. Exits with an error where something is overspent, doubled, lost or not returned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reservations", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--backend", choices=BACKENDS, action="append", help="only this one; figures of the other stay")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave no server behind
    size = {"reservations": args.reservations, "processes": args.processes, "kills": args.kills}
    for backend in args.backend or BACKENDS:
        with empty_store(backend) as url:
            found = under_fire(url, **size)
        print(backend, found)
        if any(found[name] for name in ("overspend", "doubled", "lost", "unreturned")):
            raise SystemExit(f"{backend}: the books do not add up")
        from benchmarks.record import record  # imports much that the processes of a run do not need

        record("ledger", {backend: found}, merge=True)


@contextmanager
def empty_store(backend: str) -> Iterator[str]:
    """URL of an empty database, which is removed in the end."""
    if backend == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/store.db"
    else:
        with running_postgres(durable=True) as server, fresh_schema(server) as url:
            yield url


def under_fire(url: str, *, reservations: int, processes: int, kills: int, seed: int = 0) -> dict[str, Any]:
    """The figures of one database."""
    batches = list(range(reservations // BATCH))
    usual = sum(COSTS) / len(COSTS)
    fire = Fire(url, cap=round(0.9 * usual * reservations), kills=kills, chance=random.Random(seed))
    start = time.perf_counter()
    with open_store(url) as store:
        for number in range(processes):
            begin(fire, batches[number::processes])
        told = start
        while fire.workers:
            tend(fire, store)
            if time.perf_counter() - told > TELL_S:
                told = time.perf_counter()
                left = sum(len(worker.left) for worker in fire.workers) * BATCH
                print(f"{told - start:.0f} s: {left} reservations to go, {fire.killed} kills", flush=True)
        seconds = time.perf_counter() - start
        figures = {"reservations": reservations, "processes": processes, "kills": fire.killed}
        return {**figures, **books(store, fire), "per_second": round(reservations / seconds)}


def begin(fire: Fire, batches: list[int]) -> None:
    """Start a process for these batches; while kills are due, it may be one that dies."""
    if not batches:
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["clm_ray.store.store"])
    die_at = None
    if fire.killed + fire.doomed < fire.kills and fire.begun % 2 == 0:
        # In its first half: it leaves work to the one in its place, which may have to die too.
        die_at, fire.doomed = fire.chance.choice(batches[: (len(batches) + 1) // 2]), fire.doomed + 1
    fire.begun += 1
    here, there = context.Pipe()
    process = context.Process(target=decide_batches, args=(fire.url, fire.cap, batches, die_at, there))
    process.start()
    there.close()
    fire.workers.append(Worker(process, here, list(batches), die_at))


def tend(fire: Fire, store: Store) -> None:
    """Hear what processes say, kill those whose time has come, and put new ones in their place."""
    ready = wait([worker.pipe for worker in fire.workers], timeout=1.0)
    for worker in [worker for worker in fire.workers if worker.pipe in ready]:
        try:
            said, batch = worker.pipe.recv()
        except EOFError:
            worker.process.join()
            fire.workers.remove(worker)
            if worker.left:
                raise SystemExit(f"a process ended by itself, {len(worker.left)} batches too early") from None
            continue
        if said == "reserved":
            kill(fire, worker)
        else:
            worker.left.remove(batch)
            due = fire.killed + fire.doomed < fire.kills and worker.die_at is None and worker.left
            if due and fire.chance.random() < 0.2:
                kill(fire, worker)
    fire.overspend = max(fire.overspend, over(store, fire))


def over(store: Store, fire: Fire) -> int:
    """By how much more than the cap is out, millionths."""
    state = store.budget()
    return max(0, state.reserved + state.spent + state.leased - round(fire.cap * MICROS))


def kill(fire: Fire, worker: Worker) -> None:
    """SIGKILL. The batch it was at is tried again by the next process, or, every other time, by nobody."""
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.join()
    while worker.pipe.poll():
        try:
            said, batch = worker.pipe.recv()
        except EOFError:
            break
        if said == "booked":
            worker.left.remove(batch)
    fire.workers.remove(worker)
    fire.killed += 1
    fire.doomed -= worker.die_at is not None
    left = worker.left
    if left and fire.killed % 2:
        fire.abandoned, left = fire.abandoned + 1, left[1:]
    begin(fire, left)


def decide_batches(url: str, cap: float, batches: list[int], die_at: int | None, pipe: Connection) -> None:
    """One process: reserve the highest cost, draw, book."""
    with open_store(url, create=False, connections=2) as store:
        for batch in batches:
            made = [drawn(batch * BATCH + n) for n in range(BATCH)]
            granted = store.reserve([Reservation(d.action_id, max(COSTS)) for d in made], cap=cap, now=wall_us())
            if batch == die_at:
                pipe.send(("reserved", batch))
                signal.pause()
            store.book([d for d, yes in zip(made, granted, strict=True) if yes])
            pipe.send(("booked", batch))
    pipe.close()


def drawn(number: int) -> RetentionDecision:
    """The decision about a user, the same whoever makes it."""
    user = f"user-{number}"
    cost = COSTS[hashlib.sha256(user.encode()).digest()[0] % len(COSTS)]
    return RetentionDecision(
        action_id=f"action-{number}",
        user_id=user,
        epoch=1,
        epoch_start=0,
        time=1,
        policy_version="benchmark",
        policy_digest="",
        release_id="",
        stage="at_risk",
        consent=True,
        last_taken={},
        holdout=False,
        feasible=("none", "coupon"),
        probabilities=(0.5, 0.5),
        action="coupon",
        propensity=0.5,
        cost=cost,
        masks=(),
        features_digest="",
        outcome_due=2,
    )


def books(store: Store, fire: Fire) -> dict[str, int]:
    """Do they add up? Looks at every decision; and all that was not spent must be there for the next process in need."""
    left = {"after all": fire.cap - store.budget().spent / MICROS}
    with open_store(fire.url, create=False, connections=1, wall=lambda: wall_us() + 2 * LEASE_US) as later:
        asked = [Reservation(key, amount) for key, amount in left.items()]
        returned = later.reserve(asked, cap=fire.cap, now=wall_us() + 1, stale_us=0)
        later.settle(dict.fromkeys(left, 0.0) if returned == [True] else {})
    with store.reading() as connection:
        of = AUDIT_LOG.c
        entered = connection.execute(select(func.count()).where(of.kind == DECISION)).scalar_one()
        records = connection.execute(select(RETENTION_DECISIONS.c.record)).scalars().all()
    costs = [round(orjson.loads(text)["cost"] * MICROS) for text in records]
    state = store.budget()
    return {
        "decisions": len(records),
        "abandoned": fire.abandoned * BATCH,
        "overspend": max(fire.overspend, over(store, fire)),
        "doubled": int(entered) - len(records),
        "lost": sum(costs) - state.spent,
        "unreturned": state.reserved + state.leased if returned == [True] else round(sum(left.values()) * MICROS),
    }


if __name__ == "__main__":
    main()
