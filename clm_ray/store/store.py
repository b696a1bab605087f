"""The online store: one object per process, many threads, shared with other processes through the database.

Everything is batch first: one call, one transaction. A method that writes returns when the transaction is durable.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from threading import Event
from types import TracebackType

from sqlalchemy import Connection, Engine, inspect, select

from clm_ray.errors import StoreError
from clm_ray.store import decisions, events, ledger
from clm_ray.store.engine import chunks, insert, make_engine, overwrite_deleted, reading, writing
from clm_ray.store.erase import Erased, erase
from clm_ray.store.history import StoredHistory, pack
from clm_ray.store.records import (
    Budget,
    Override,
    Reservation,
    RetentionDecision,
    ServedSlate,
    StoredEvent,
    UserOverlay,
    Verdict,
)
from clm_ray.store.settings import get_setting
from clm_ray.store.tables import METADATA, SETTINGS, USERS

SCHEMA = "1"
"""Version of the tables, kept in the settings."""
RETENTION_BUDGET = "retention"
"""Name of the budget that retention decisions draw on."""
_STORE_ID = "store_id"
_CLOCK_OFFSET = "clock_offset_us"


def open_store(url: str, *, create: bool = True) -> Store:
    """Open the store at an SQLAlchemy URL, making file and tables when `create` and they are not there.

    Raises StoreError: not a usable URL, no store there (`create` false), tables of another version, not a database.
    """
    store = Store(make_engine(url, create=create))
    try:
        store.check(create=create)
    except BaseException:
        store.close()
        raise
    return store


class Store:
    """Holds the database connections. Made by `open_store`; usable as a context manager."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def reading(self) -> AbstractContextManager[Connection]:
        """A transaction that sees one state of the store."""
        return reading(self._engine)

    def writing(self) -> AbstractContextManager[Connection]:
        """A transaction that may write; durable when left without an error, undone otherwise."""
        return writing(self._engine)

    def check(self, *, create: bool) -> None:
        """Make the tables (one process does it, the others wait), or make sure that they are those of this version."""
        with self.writing() if create else self.reading() as connection:
            if create:
                METADATA.create_all(connection)
                connection.execute(insert(SETTINGS).values(key="schema", value=SCHEMA).on_conflict_do_nothing())
            elif not inspect(connection).has_table(SETTINGS.name):
                raise StoreError(
                    "has no tables", field="store.url", value=str(self._engine.url), fix="run jobs/publish.py first"
                )
            found = get_setting(connection, "schema")
        if found != SCHEMA:
            raise StoreError(f"tables have version {found}, not {SCHEMA}", field="store.url", fix="use a fresh store")

    # events and histories

    def append_events(self, batch: Sequence[StoredEvent], *, received_at: int) -> list[Verdict]:
        """Append events; one verdict each, in order. `received_at`: the clock's now, µs.

        A duplicate is an event whose id is in the log, in its user's base, or earlier in the batch.
        """
        with self.reading() as connection:
            known = events.ids_in_base(connection, batch)
        with self.writing() as connection:
            return events.append(connection, batch, known=known, received_at=received_at)

    def histories(
        self, user_ids: Sequence[str], *, recent: Mapping[str, Sequence[StoredEvent]] | None = None
    ) -> dict[str, StoredHistory]:
        """The whole history of each user: base and newer events, each id once, sorted by (time, event id).

        `recent`: user → events that came with a request; read as if they were stored, without being stored.
        """
        with self.reading() as connection:
            return events.histories(connection, user_ids, recent=recent or {})

    def load_base(self, bases: Iterable[tuple[StoredHistory, Sequence[str]]], *, dataset: str) -> int:
        """Replace the bases of these users, given as (history, event ids), in one transaction. Returns how many.

        Events that came in since stay where they are; one that the new base holds too is still read once.
        """
        rows = [(h.user_id, int(h.time_N[-1]) if len(h) else 0, pack(h, event_ids=ids)) for h, ids in bases]
        with self.writing() as connection:
            return events.replace_bases(connection, rows, dataset=dataset)

    # users

    def overlays(self, user_ids: Sequence[str]) -> dict[str, UserOverlay]:
        """What these users told us themselves; users who told nothing are left out."""
        found: dict[str, UserOverlay] = {}
        with self.reading() as connection:
            for part in chunks(dict.fromkeys(user_ids)):
                for row in connection.execute(select(USERS).where(USERS.c.user_id.in_(part))):
                    found[row.user_id] = UserOverlay(row.user_id, row.consent, row.timezone)
        return found

    def put_overlays(self, overlays: Sequence[UserOverlay]) -> None:
        """Replace what is known of these users."""
        rows = [{"user_id": o.user_id, "consent": o.consent, "timezone": o.timezone} for o in overlays]
        if rows:
            statement = insert(USERS)
            new = {name: statement.excluded[name] for name in ("consent", "timezone")}
            with self.writing() as connection:
                connection.execute(statement.on_conflict_do_update(index_elements=["user_id"], set_=new), rows)

    # decisions

    def book(self, batch: Sequence[RetentionDecision]) -> list[RetentionDecision]:
        """Store each decision and settle its reservation, all or nothing; where (user, epoch) has one, return that instead."""
        with self.writing() as connection:
            return decisions.book(connection, batch)

    def override(self, action_ids: Sequence[str], *, by: Override) -> list[RetentionDecision]:
        """Replace the action in force of these decisions, leaving what was drawn in the record."""
        with self.writing() as connection:
            return decisions.override(connection, action_ids, by=by)

    def decisions_of(self, keys: Sequence[tuple[str, int]]) -> dict[tuple[str, int], RetentionDecision]:
        """The stored retention decisions among these (user, epoch index)."""
        with self.reading() as connection:
            return decisions.decisions_of(connection, keys)

    def last_actions(self, user_ids: Sequence[str]) -> dict[str, dict[str, int]]:
        """User → action → start of the epoch it was last decided in, µs (for cooldowns)."""
        with self.reading() as connection:
            return decisions.last_actions(connection, user_ids)

    def log_slates(self, slates: Sequence[ServedSlate], *, cancelled: Event | None = None) -> None:
        """Log answers of the endpoint; a decision_id that is there already stays as it is.

        Where `cancelled` is set before the transaction commits, nothing is logged and StoreError raised: the caller has given up.
        """
        with self.writing() as connection:
            decisions.log_slates(connection, slates)
            if cancelled is not None and cancelled.is_set():
                raise StoreError("nobody waits for these slates any more", fix="give args.timeouts.store_s more time")

    def slates_of(self, decision_ids: Sequence[str]) -> dict[str, ServedSlate]:
        """The logged answers among these decision ids."""
        with self.reading() as connection:
            return decisions.slates_of(connection, decision_ids)

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
        with self.writing() as connection:
            return ledger.reserve(connection, requests, budget=budget, cap=cap, now=now, stale_us=stale_us)

    def settle(self, amounts: Mapping[str, float]) -> None:
        """Key → how much of its reservation is spent; the rest is given back. Once per key. `book` does this for decisions."""
        with self.writing() as connection:
            ledger.settle(connection, amounts)

    def budget(self, name: str = RETENTION_BUDGET) -> Budget:
        """Cap, reserved and spent."""
        with self.reading() as connection:
            return ledger.state(connection, budget=name)

    # erasure

    def erase(self, user_ids: Sequence[str]) -> Erased:
        """Delete everything about these users, in one transaction."""
        with self.writing() as connection:
            erased = erase(connection, user_ids)
        overwrite_deleted(self._engine)
        return erased

    # settings

    def id(self) -> str:
        """Random, chosen once: no two stores have the same."""
        with self.writing() as connection:
            row = {"key": _STORE_ID, "value": uuid.uuid4().hex[:12]}
            connection.execute(insert(SETTINGS).values(row).on_conflict_do_nothing())
            return get_setting(connection, _STORE_ID) or ""

    def clock_offset(self) -> int | None:
        """The offset of the `log_end` clock, µs; None when none was set."""
        with self.reading() as connection:
            found = get_setting(connection, _CLOCK_OFFSET)
        return None if found is None else int(found)

    def set_clock_offset_once(self, offset_us: int) -> int:
        """Set the offset unless there is one; return the one that holds."""
        with self.writing() as connection:
            row = {"key": _CLOCK_OFFSET, "value": str(offset_us)}
            connection.execute(insert(SETTINGS).values(row).on_conflict_do_nothing())
            return int(get_setting(connection, _CLOCK_OFFSET) or 0)
