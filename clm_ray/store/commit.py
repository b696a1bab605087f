"""Group commit: calls that write at the same moment share one transaction, and so one wait for the disk.

Whoever comes when nobody writes leads: it takes all calls that wait, runs them in one transaction, commits, tells the others, and hands the
lead to the next that has come in the meantime. Nobody waits for company: a lone call is committed at once, and the group grows by itself
while the disk is slow. PostgreSQL writes its own log for many transactions at once, so there each call has a connection and a transaction of its own
(benchmarks/store.py measures both). A call that fails is taken out and the others run again, so works must not change anything but the database.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from threading import Event, Lock
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError

from clm_ray.errors import StoreError
from clm_ray.store import audit
from clm_ray.store.audit import AuditEntry
from clm_ray.store.engine import writing

MOST = 64
"""Most calls in one transaction."""
_TRIES = 5
_CONFLICTS = ("40001", "40P01")
"""PostgreSQL's serialization failure and deadlock: the same works may well succeed when they run again."""

T = TypeVar("T")
Work = Callable[[Connection, list[AuditEntry]], T]
"""What one call does in a transaction. What it adds to the list is entered into the audit log when all works of the transaction are done,
since that lock is best taken last."""


class GroupCommit:
    """The one writer of a process; with `grouped` false, a writer for each call."""

    def __init__(self, engine: Engine, *, grouped: bool = True, most: int = MOST) -> None:
        self._engine = engine
        self._grouped = grouped
        self._most = most
        self._mutex = Lock()
        self._waiting: list[_Call] = []
        self._busy = False

    @property
    def waiting(self) -> int:
        """How many calls wait for the next transaction."""
        return len(self._waiting)

    def run(self, work: Work[T], *, cancelled: Event | None = None) -> T:
        """What `work` returns, once it is durable.

        Where `cancelled` is set before the commit, nothing is written and StoreError raised. Raises what `work` raises, and
        StoreError where the database cannot be used.
        """
        call = _Call(work, cancelled)
        if self._grouped:
            self._join(call)
        else:
            self._commit([call])
        if call.error is not None:
            raise call.error
        return cast(T, call.value)

    def _join(self, call: _Call) -> None:
        with self._mutex:
            self._waiting.append(call)
            leads, self._busy = not self._busy, True
        if not leads:
            call.woken.wait()
        if not call.done:
            self._lead()

    def _lead(self) -> None:
        with self._mutex:
            group, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        try:
            self._commit(group)
        finally:
            with self._mutex:
                successor = self._waiting[0] if self._waiting else None
                self._busy = successor is not None
            for call in group:
                call.woken.set()
            if successor is not None:
                successor.woken.set()

    def _commit(self, group: Sequence[_Call]) -> None:
        for call in group:
            call.error, call.done = StoreError("the write was interrupted", fix="send it again"), True
        left, conflicts = list(group), 0
        while left := [call for call in left if not call.given_up()]:
            failed: list[_Call] = []
            try:
                with writing(self._engine) as connection:
                    self._run(connection, left, failed)
            except _TakenOutError:
                left = [call for call in left if call not in failed]
            except StoreError as error:
                conflicts += 1
                if not _is_conflict(error.__cause__) or conflicts == _TRIES:
                    for call in left:
                        call.error = copy.copy(error)
                    return
            else:
                for call in left:
                    call.error = None
                return

    def _run(self, connection: Connection, calls: Sequence[_Call], failed: list[_Call]) -> None:
        entries: list[AuditEntry] = []
        for call in calls:
            own: list[AuditEntry] = []
            try:
                call.value = call.work(connection, own)
            except Exception as error:
                if isinstance(error, DBAPIError) and not isinstance(
                    error, IntegrityError | DataError | ProgrammingError
                ):
                    raise  # not of this call's doing
                call.error = error
                failed.append(call)
                raise _TakenOutError from error
            entries += own
        failed += [call for call in calls if call.given_up()]
        if failed:
            raise _TakenOutError
        if entries:
            audit.append(connection, entries)


class _TakenOutError(Exception):
    """Some calls must not be part of the transaction."""


class _Call:
    """One call of `run`. Belongs to the caller until it waits, then to the leader until it is woken."""

    def __init__(self, work: Work[Any], cancelled: Event | None) -> None:
        self.work = work
        self.cancelled = cancelled
        self.woken = Event()
        self.done = False
        self.value: Any = None
        self.error: Exception | None = None

    def given_up(self) -> bool:
        if self.cancelled is None or not self.cancelled.is_set():
            return False
        self.error = StoreError("nobody waits for this write any more", fix="give args.timeouts.store_s more time")
        return True


def _is_conflict(error: BaseException | None) -> bool:
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _CONFLICTS
