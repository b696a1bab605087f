"""The online store: one object per process, many threads, shared with other processes through the database.

Everything is batch first: a call reads or writes a whole batch. A method that writes returns when what it wrote is durable.

There is one method for each thing that the store can be asked, and little else, which is why this file is longer than others: what is done in
its transaction stands in the module of that name beside this one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from threading import Event
from types import TracebackType
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from clm_ray.errors import StoreError
from clm_ray.store import answers, audit, decisions, events, items, ledger, users
from clm_ray.store.answers import Claim, Claimed, Kept
from clm_ray.store.audit import AuditEntry, AuditHead, AuditReport
from clm_ray.store.clock import wall_us
from clm_ray.store.commit import GroupCommit, Work
from clm_ray.store.engine import Lock, is_sqlite, make_engine, overwrite_deleted, reading, writing
from clm_ray.store.erase import Erased, erase, finish_erasures, standing
from clm_ray.store.erase import pending as pending_erasures
from clm_ray.store.export import Exported, export
from clm_ray.store.history import StoredHistory, pack, since
from clm_ray.store.items import ChangedItem, Mark, PutItem
from clm_ray.store.leases import Holder, close_leases
from clm_ray.store.migrate import ensure_tables
from clm_ray.store.records import (
    Budget,
    HistoryMark,
    NotLogged,
    Override,
    Reservation,
    RetentionDecision,
    ServedSlate,
    StoredEvent,
    UserOverlay,
    Verdict,
)
from clm_ray.store.settings import get_setting, set_once
from clm_ray.store.tables import METADATA

CONNECTIONS = 8
"""Most connections that a process keeps to its store, where nothing else is said."""
RETENTION_BUDGET = "retention"
"""Name of the budget that retention decisions draw on."""
_STORE_ID = "store_id"
_CLOCK_OFFSET = "clock_offset_us"

T = TypeVar("T")


def open_store(
    url: str, *, create: bool = True, connections: int = CONNECTIONS, wall: Callable[[], int] = wall_us
) -> Store:
    """Open the store at an SQLAlchemy URL: sqlite:///PATH, or postgresql://USER@HOST/DATABASE.

    With `create` file and tables are made where they are not there, and older tables upgraded; one process does it, the others wait.
    `connections`: most that this process keeps open. `wall`: real time, UTC µs.
    Raises StoreError: not a usable URL, no store there or an older one (`create` false), one of a newer version, not a database.
    """
    engine = make_engine(url, create=create, connections=connections)
    try:
        ensure_tables(engine, create=create)
    except BaseException:
        engine.dispose()
        raise
    return Store(engine, wall=wall)


class Store:
    """Holds the database connections. Made by `open_store`; usable as a context manager."""

    def __init__(self, engine: Engine, *, wall: Callable[[], int]) -> None:
        self._engine = engine
        self._wall = wall
        self._commits = GroupCommit(engine, grouped=is_sqlite(engine))
        self._name = uuid.uuid4().hex
        self._leases = False

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back leases and close all connections."""
        if self._leases:
            with suppress(StoreError):  # the database is gone: they expire
                self.write(lambda c, _: close_leases(c, self._holder()))
        self.abandon()

    def abandon(self) -> None:
        """Close all connections as a process does that dies: leases are left to expire."""
        self._leases = False
        self._engine.dispose()

    def reading(self) -> AbstractContextManager[Connection]:
        """A transaction that sees one state of the store."""
        return reading(self._engine)

    def writing(self) -> AbstractContextManager[Connection]:
        """A transaction that may write; durable when left without an error, undone otherwise."""
        return writing(self._engine)

    def write(self, work: Work[T], *, cancelled: Event | None = None) -> T:
        """Run `work` in a transaction, which it may share with other calls of this process; what it returns is durable.

        Prefer this to `writing` where calls are many and small. `work` may be run more than once. See `store.commit`.
        """
        return self._commits.run(work, cancelled=cancelled)

    # events and histories

    def append_events(self, batch: Sequence[StoredEvent], *, received_at: int) -> list[Verdict]:
        """Append events; one verdict each, in order. `received_at`: the clock's now, µs.

        A duplicate is an event whose id is in the log, in its user's base, or earlier in the batch.
        """
        with self.reading() as connection:
            known = events.ids_in_base(connection, batch)

        def work(connection: Connection, _audited: list[AuditEntry]) -> list[Verdict]:
            erased = standing(connection, (event.user_id for event in batch))
            return events.append(connection, batch, known=known, erased=erased, received_at=received_at)

        return self.write(work)

    def histories(
        self, user_ids: Sequence[str], *, recent: Mapping[str, Sequence[StoredEvent]] | None = None
    ) -> dict[str, StoredHistory]:
        """The whole history of each user: base and newer events, each id once, sorted by (time, event id).

        `recent`: user → events that came with a request; read as if they were stored, without being stored.
        """
        with self.reading() as connection:
            return events.histories(connection, user_ids, recent=recent or {})

    def marks(self, user_ids: Sequence[str]) -> dict[str, HistoryMark]:
        """What changes whenever a user's history does: a reader who has seen the same mark before need not read `histories` again."""
        with self.reading() as connection:
            return events.marks(connection, user_ids)

    def load_base(self, bases: Iterable[tuple[StoredHistory, Sequence[str]]], *, dataset: str) -> int:
        """Replace the bases of these users, given as (history, event ids), in one transaction. Returns how many.

        Events that came in since stay where they are; one that the new base holds too is still read once.
        """
        given = list(bases)
        with self.writing() as connection:
            erased = standing(connection, (history.user_id for history, _ in given), lock=Lock.BASES)
            kept = [since(history, ids, erased.get(history.user_id)) for history, ids in given]
            rows = [(h.user_id, int(h.time_N[-1]) if len(h) else 0, pack(h, event_ids=ids)) for h, ids in kept]
            return events.replace_bases(connection, rows, dataset=dataset)

    # users

    def overlays(self, user_ids: Sequence[str]) -> dict[str, UserOverlay]:
        """What these users told us themselves, and who of them was erased; users of whom there is neither are left out."""
        with self.reading() as connection:
            return users.overlays(connection, user_ids)

    def put_overlays(self, overlays: Sequence[UserOverlay]) -> None:
        """Replace what is known of these users. Who says no in general says no to every channel, whatever they said of it before."""
        if overlays:
            with self.writing() as connection:
                users.put_overlays(connection, overlays)

    # decisions

    def book(self, batch: Sequence[RetentionDecision]) -> list[RetentionDecision]:
        """Store each decision and settle its reservation, all or nothing; where (user, epoch) has one, return that instead.

        A decision of the time before its user was erased is not stored, and is `none` by an override (`decisions.FORGONE`).
        """
        return self.write(lambda c, audited: decisions.book(c, batch, holder=self._holder(), audited=audited))

    def override(self, action_ids: Sequence[str], *, by: Override) -> list[RetentionDecision]:
        """Replace the action in force of these decisions, leaving what was drawn in the record; those that are gone with their user are left out."""
        return self.write(lambda c, audited: decisions.override(c, action_ids, by=by, audited=audited))

    def decisions_of(self, keys: Sequence[tuple[str, int]]) -> dict[tuple[str, int], RetentionDecision]:
        """The stored retention decisions among these (user, epoch index)."""
        with self.reading() as connection:
            return decisions.decisions_of(connection, keys)

    def last_actions(self, user_ids: Sequence[str]) -> dict[str, dict[str, int]]:
        """User → action → start of the epoch it was last decided in, µs (for cooldowns)."""
        with self.reading() as connection:
            return decisions.last_actions(connection, user_ids)

    def log_slates(
        self, slates: Sequence[ServedSlate], *, kept: Sequence[Kept] = (), cancelled: Event | None = None
    ) -> NotLogged:
        """Log answers of the endpoint, and keep those that were claimed; a decision_id that is there already stays as it is.

        Of a claim that was lost neither the answer nor its slate is kept. That goes for a slate of the time before its user was erased too. Where `cancelled` is set before the transaction commits, nothing is and StoreError is raised: the caller has given up.
        """

        def work(connection: Connection, _audited: list[AuditEntry]) -> NotLogged:
            erased = standing(connection, (slate.user_id for slate in slates))
            buried = {slate.decision_id for slate in slates if slate.time < erased.get(slate.user_id, slate.time)}
            lost = answers.keep(connection, [one for one in kept if one.decision_id not in buried])
            lost |= {one.key for one in kept if one.decision_id in buried}
            dropped = buried | {one.decision_id for one in kept if one.key in lost}
            left = [slate for slate in slates if slate.decision_id not in dropped]
            decisions.log_slates(connection, decisions.without_gone(connection, left, erased=erased))
            return NotLogged(frozenset(lost), frozenset(one for one in dropped if one is not None))

        return self.write(work, cancelled=cancelled)

    def claim_answers(self, claims: Sequence[Claim], *, now: int) -> list[Claimed]:
        """What can be done for each request with a key, in order. See `store.answers`."""
        return self.write(lambda c, _: answers.claim(c, claims, now=now))

    def kept_answers(self, keys: Sequence[str], *, body: str, now: int) -> dict[str, str]:
        """The answers that are kept under these keys for this body, by key."""
        with self.reading() as connection:
            return answers.kept(connection, keys, body=body, now=now)

    def release_answers(self, tokens: Sequence[str]) -> None:
        """Give back the claims of these attempts that came to nothing."""
        if tokens:
            self.write(lambda c, _: answers.release(c, tokens))

    def slates_of(self, decision_ids: Sequence[str]) -> dict[str, ServedSlate]:
        """The logged answers among these decision ids."""
        with self.reading() as connection:
            return decisions.slates_of(connection, decision_ids)

    # items

    def put_items(self, changes: Sequence[tuple[str, PutItem | None]], *, now: int) -> None:
        """Put each item, or delete it (None). See `store.items`."""
        with self.writing() as connection:
            items.put(connection, changes, now=now)

    def put_item_vectors(self, vectors: Sequence[tuple[str, int, bytes]], *, release: str) -> None:
        """Keep vectors (item id, version, float32 bytes) that a release's encoder made."""
        with self.writing() as connection:
            items.put_vectors(connection, vectors, release=release)

    def changed_items(self, *, release: str, after: Mark) -> tuple[list[ChangedItem], Mark]:
        """What was put, deleted or encoded since `after`, and how far that is."""
        with self.reading() as connection:
            return items.changed(connection, release=release, after=after)

    def unencoded_items(self, *, release: str, limit: int) -> list[ChangedItem]:
        """Items that wait for their vector by this release's encoder."""
        with self.reading() as connection:
            return items.unencoded(connection, release=release, limit=limit)

    def known_items(self, item_ids: Sequence[str]) -> set[str]:
        """Those of these items that were ever put or deleted."""
        with self.reading() as connection:
            return set(items.numbers_of(connection, item_ids))

    def item_page(self, *, after: str, limit: int) -> list[ChangedItem]:
        """Items put or deleted, by id, from after `after`."""
        with self.reading() as connection:
            return items.page(connection, after=after, limit=limit)

    # the ledger

    def reserve(
        self,
        requests: Sequence[Reservation],
        *,
        cap: float,
        now: int,
        stale_us: int | None = None,
        budget: str = RETENTION_BUDGET,
    ) -> list[bool]:
        """Reserve money for each key, in order, never beyond `cap`; True where the key holds its amount. See `store.ledger`."""
        self._leases = True
        return self.write(
            lambda c, _: ledger.reserve(
                c, requests, budget=budget, cap=cap, now=now, holder=self._holder(), stale_us=stale_us
            )
        )

    def settle(self, amounts: Mapping[str, float]) -> None:
        """Key → how much of its reservation is spent; the rest is given back. Once per key. `book` does this for decisions."""
        self.write(lambda c, _: ledger.settle(c, amounts, holder=self._holder()))

    def budget(self, name: str = RETENTION_BUDGET) -> Budget:
        """Cap, reserved, spent, and what processes hold on lease."""
        with self.reading() as connection:
            return ledger.state(connection, budget=name)

    def _holder(self) -> Holder:
        return Holder(self._name, self._wall())

    # the audit log

    def append_audit(self, entries: Sequence[AuditEntry]) -> AuditHead:
        """Enter what happened (an approval, a cap, a guardrail, the kill switch); returns a head of the chain that has them.

        Decisions and overrides enter themselves. See `store.audit` for what an entry keeps of a user.
        """
        self.write(lambda _, audited: audited.extend(entries))
        with self.reading() as connection:
            return audit.head_of(connection)

    def verify_audit(self, *, known: AuditHead | None = None) -> AuditReport:
        """Check the whole audit log; `known`: a head noted earlier, which must still be in it."""
        with self.reading() as connection:
            return audit.verify(connection, known=known)

    # erasure

    def erase(
        self,
        user_ids: Sequence[str],
        *,
        at: int | None = None,
        clock: Callable[[], int] | None = None,
        pending: bool = False,
    ) -> Erased:
        """Delete everything about these users, in one transaction; nothing of the time before `at` is taken in again.

        `at`: µs; None: the moment by `clock` (None: real time) when all is deleted, since who asked while this waited or went on has seen what was
        there. `pending`: the files of the workspace are not erased yet; `pending_erasures` names the users until they are.
        """

        def moment() -> int:
            return (clock or self._wall)() if at is None else at

        with self.writing() as connection:
            erased = erase(connection, user_ids, now=self._wall(), at=moment, pending=pending)
        overwrite_deleted(self._engine, [METADATA.tables[name] for name in erased.removed])
        return erased

    def pending_erasures(self) -> list[str]:
        """Users who were erased here, and not from the files of the workspace yet."""
        with self.reading() as connection:
            return pending_erasures(connection)

    def finish_erasures(self, user_ids: Sequence[str]) -> None:
        """The files of these users are erased too: their tombstones name them no longer."""
        with self.writing() as connection:
            finish_erasures(connection, user_ids)

    def export(self, user_id: str, *, after: tuple[int, list[Any]] | None = None, limit: int = 1000) -> list[Exported]:
        """What is kept of a user, a page at a time. See `store.export`."""
        with self.reading() as connection:
            return export(connection, user_id, after=after, limit=limit)

    # settings

    def id(self) -> str:
        """Random, chosen once: no two stores have the same."""
        with self.writing() as connection:
            return set_once(connection, _STORE_ID, uuid.uuid4().hex[:12])

    def clock_offset(self) -> int | None:
        """The offset of the `log_end` clock, µs; None when none was set."""
        with self.reading() as connection:
            found = get_setting(connection, _CLOCK_OFFSET)
        return None if found is None else int(found)

    def set_clock_offset_once(self, offset_us: int) -> int:
        """Set the offset unless there is one; return the one that holds."""
        with self.writing() as connection:
            return int(set_once(connection, _CLOCK_OFFSET, str(offset_us)))
