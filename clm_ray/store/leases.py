"""Leases: a process takes a little of a budget in advance, so that its next decisions need not lock the budget, which everybody wants.

    budgets.reserved + budgets.spent    all that was ever taken out of the budget and did not come back
    leases.free                         taken and not yet reserved for anything
    leases.spent                        spent by this process, not yet told to the budget
    reservations                        each unsettled one holds its amount, whoever made it

Taking a lease moves money from the budget into `free`, a reservation takes it from there, and a settlement puts what was not spent into the `free`
of whoever settles. So a decision touches rows of its own and its process's lease, and the budget is locked only to take more, or
to close a lease. What really is reserved is budgets.reserved − Σ free − Σ leases.spent.

A lease that its process does not renew for `LEASE_US` belongs to whoever needs money next: what was free in it is free again. That is safe even if
the process lives: it finds no lease and takes another. Reservations are not part of a lease and stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, select, update

from clm_ray.store.engine import insert
from clm_ray.store.tables import BUDGETS, LEASES

LEASE_US = 60_000_000
"""How long a lease outlives its last use, µs."""
_AHEAD = 31
"""A lease is taken for this many times what is needed now, beside that,"""
_SHARE = 16
"""but for no more than this part of what the budget has left: the last of it is not kept by those who need it least."""
_CHANGED = -1
"""As a lease's cap: ask the budget before anything is reserved."""


@dataclass(frozen=True)
class Holder:
    """Who takes leases: a name that no other process has, and the real time (UTC µs)."""

    name: str
    wall: int


@dataclass
class Lease:
    """A lease during a transaction that has its row locked; `save` writes it. Millionths."""

    holder: Holder
    budget: str
    cap: int
    free: int

    def save(self, connection: Connection) -> None:
        """Write it back, renewed."""
        change = update(LEASES).where(LEASES.c.holder == self.holder.name, LEASES.c.budget == self.budget)
        values = {"cap": self.cap, "free": self.free, "expires_at": self.holder.wall + LEASE_US}
        connection.execute(change.values(**values))


def locked_lease(connection: Connection, holder: Holder, *, budget: str, cap: int) -> Lease:
    """The holder's lease, locked; an empty one where there was none (`cap`: for a budget that is not there yet)."""
    of = LEASES.c
    query = select(of.cap, of.free).where(of.holder == holder.name, of.budget == budget).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:  # or another thread makes it at this moment
        budgets = insert(connection, BUDGETS).values(name=budget, cap=cap, reserved=0, spent=0)
        connection.execute(budgets.on_conflict_do_nothing())
        new = {"holder": holder.name, "budget": budget, "cap": _CHANGED, "free": 0, "spent": 0}
        leases = insert(connection, LEASES).values(**new, expires_at=holder.wall + LEASE_US)
        connection.execute(leases.on_conflict_do_nothing())
        row = connection.execute(query).one()
    return Lease(holder, budget, row.cap, row.free)


def put_under_cap(connection: Connection, lease: Lease, *, cap: int) -> None:
    """Where this is another cap than the lease was taken under, give back what is free and set the budget's cap (never less than is committed).

    While it is more than was asked for, what comes back goes to the budget at each call, until the cap is what it should be.
    """
    if lease.cap == cap:
        return
    row = _locked_budget(connection, lease.budget)
    committed = row.reserved + row.spent - lease.free
    change = update(BUDGETS).where(BUDGETS.c.name == lease.budget)
    connection.execute(change.values(cap=max(cap, committed), reserved=BUDGETS.c.reserved - lease.free))
    lease.free = 0
    lease.cap = cap if committed <= cap else _CHANGED


def peek(connection: Connection, lease: Lease) -> int:
    """What the budget could add to the lease, seen without locking anything."""
    of = LEASES.c
    expired = select(func.coalesce(func.sum(of.free), 0)).where(*_expired(lease)).scalar_subquery()
    budget = BUDGETS.c
    free = select(budget.cap - budget.reserved - budget.spent + expired).where(budget.name == lease.budget)
    return int(connection.execute(free).scalar_one())


def lock_budget(connection: Connection, lease: Lease) -> int:
    """Lock the budget until the transaction ends, close the leases that expired, and return what is free."""
    row = _locked_budget(connection, lease.budget)
    query = select(LEASES).where(*_expired(lease)).with_for_update(skip_locked=True)  # whoever has it locked lives
    return int(row.cap - row.reserved - row.spent) + _fold(connection, connection.execute(query).all())


def draw(connection: Connection, lease: Lease, *, needed: int, available: int) -> None:
    """Move what is needed, and some ahead, from the locked budget into the lease."""
    more = needed - lease.free
    ahead = max(0, min(_AHEAD * needed, (available - more) // _SHARE))
    _move(connection, lease.budget, reserved=more + ahead)
    lease.free += more + ahead


def close_leases(connection: Connection, holder: Holder) -> None:
    """Give back all that this holder has on lease."""
    query = select(LEASES).where(LEASES.c.holder == holder.name).order_by(LEASES.c.budget).with_for_update()
    _fold(connection, connection.execute(query).all())


def settle_with(connection: Connection, holder: Holder, *, budget: str, held: int, spent: int) -> None:
    """Account for reservations that held this much, of which `spent` is gone: the rest goes to the holder's lease, else to the budget."""
    of = LEASES.c
    change = update(LEASES).where(of.holder == holder.name, of.budget == budget)
    values = {"free": of.free + (held - spent), "spent": of.spent + spent, "expires_at": holder.wall + LEASE_US}
    if not connection.execute(change.values(**values)).rowcount:
        _move(connection, budget, reserved=-held, spent=spent)


def _locked_budget(connection: Connection, budget: str) -> Row[Any]:
    # key_share: not against those who only refer to it by a foreign key, which is all who hold a lease or a reservation.
    return connection.execute(select(BUDGETS).where(BUDGETS.c.name == budget).with_for_update(key_share=True)).one()


def _expired(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    of = LEASES.c
    return of.budget == lease.budget, of.expires_at < lease.holder.wall, of.holder != lease.holder.name


def _fold(connection: Connection, leases: Sequence[Row[Any]]) -> int:
    """Remove these locked leases; the budget gets what is free and learns what was spent. Returns the former."""
    for lease in leases:
        _move(connection, lease.budget, reserved=-(lease.free + lease.spent), spent=lease.spent)
        of = LEASES.c
        connection.execute(delete(LEASES).where(of.holder == lease.holder, of.budget == lease.budget))
    return sum(int(lease.free) for lease in leases)


def _move(connection: Connection, budget: str, *, reserved: int, spent: int = 0) -> None:
    change = update(BUDGETS).where(BUDGETS.c.name == budget)
    connection.execute(change.values(reserved=BUDGETS.c.reserved + reserved, spent=BUDGETS.c.spent + spent))
