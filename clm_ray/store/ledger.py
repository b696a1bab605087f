"""The budget ledger: reserve before deciding, settle when decided; spent + reserved ≤ cap at every moment.

The budget's row is locked while a batch is granted (on SQLite the whole write transaction is), and the table itself refuses a row
that is overspent. What a process that died had reserved is given back once it is too old to be booked. Every key is used once:
repeating a call changes nothing. Amounts are kept in millionths of the currency, so sums are exact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, case, delete, select, update

from clm_ray.errors import StoreError
from clm_ray.store.engine import chunks, insert
from clm_ray.store.records import Budget, Reservation
from clm_ray.store.tables import BUDGETS, RESERVATIONS

MICROS = 1_000_000
"""Millionths per unit of currency."""


@dataclass(frozen=True)
class _Held:
    """What a key holds, and what was spent of it once it is settled. Millionths."""

    budget: str
    amount: int
    spent: int | None


def reserve(
    connection: Connection,
    requests: Sequence[Reservation],
    *,
    budget: str,
    cap: float,
    now: int,
    stale_us: int | None = None,
) -> list[bool]:
    """Make each key hold at least its amount, in order; True where it does.

    A key that holds enough already, or is settled, is True and moves nothing; one that holds less is raised by the difference. A
    refusal leaves what the key held before. A `cap` below what is already committed stops all further reservations.
    Reservations of this budget that are not settled `stale_us` after they were made (µs; None: never) are released first.
    """
    if stale_us is not None:
        _release(connection, budget, made_before=now - stale_us)
    free = _set_cap(connection, budget, _micros(cap, "budget"))
    held = _held(connection, [request.key for request in requests])
    granted, changed, total = [], {}, 0
    for request in requests:
        amount, before = _micros(request.amount, "amount"), held.get(request.key)
        missing = amount - (before.amount if before else 0)
        done = before is not None and (before.spent is not None or missing <= 0)
        granted.append(done or missing <= free - total)
        if granted[-1] and not done:
            held[request.key] = changed[request.key] = _Held(budget, amount, None)
            total += missing
    _hold(connection, changed, now)
    _move(connection, budget, reserved=total, spent=0)
    return granted


def settle(connection: Connection, amounts: Mapping[str, float]) -> None:
    """Spend, of what each key holds, this amount, and give the rest back. Repeating it with the same amounts does nothing.

    Raises StoreError: no such reservation, more than was reserved, settled before with another amount.
    """
    held = _held(connection, amounts)
    spent: dict[str, int] = {}
    released: dict[str, int] = defaultdict(int)
    for key, amount in amounts.items():
        if key not in held:
            raise StoreError(
                "nothing is reserved under this key", field="ledger.key", value=key, fix="reserve before settling"
            )
        before, micros = held[key], _micros(amount, "amount")
        if before.spent is None and micros <= before.amount:
            spent[key] = micros
            released[before.budget] += before.amount
        elif before.spent != micros:
            what = f"more than the {before.amount / MICROS:g} reserved"
            if before.spent is not None:
                what = f"settled before with {before.spent / MICROS:g}"
            raise StoreError(what, field="ledger.amount", value=amount, fix="reserve the highest cost, settle it once")
    if spent:
        change = (
            update(RESERVATIONS).where(RESERVATIONS.c.key == bindparam("of_key")).values(spent=bindparam("now_spent"))
        )
        connection.execute(change, [{"of_key": key, "now_spent": micros} for key, micros in spent.items()])
    for budget, amount in released.items():
        total = sum(value for key, value in spent.items() if held[key].budget == budget)
        _move(connection, budget, reserved=-amount, spent=total)


def reserved_keys(connection: Connection, keys: Iterable[str]) -> set[str]:
    """Those of `keys` that have a reservation, settled or not."""
    return set(_held(connection, keys))


def state(connection: Connection, *, budget: str) -> Budget:
    """Cap, reserved and spent; all zero for a budget never used."""
    row = connection.execute(select(BUDGETS).where(BUDGETS.c.name == budget)).one_or_none()
    return Budget(0, 0, 0) if row is None else Budget(cap=row.cap, reserved=row.reserved, spent=row.spent)


def _release(connection: Connection, budget: str, *, made_before: int) -> None:
    """Give back what is reserved and not settled; as if it had never been asked for."""
    of = RESERVATIONS.c
    stale = delete(RESERVATIONS).where(of.budget == budget, of.spent.is_(None), of.created_at < made_before)
    amounts = connection.execute(stale.returning(of.amount)).scalars().all()
    if amounts:
        _move(connection, budget, reserved=-sum(amounts), spent=0)


def _set_cap(connection: Connection, budget: str, cap: int) -> int:
    """Set the cap, lock the budget, and return what is free."""
    statement = insert(connection, BUDGETS).values(name=budget, cap=cap, reserved=0, spent=0)
    committed = BUDGETS.c.reserved + BUDGETS.c.spent
    effective = case((committed > cap, committed), else_=cap)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"cap": effective}))
    row = connection.execute(select(BUDGETS).where(BUDGETS.c.name == budget).with_for_update()).one()
    return int(row.cap - row.reserved - row.spent)


def _held(connection: Connection, keys: Iterable[str]) -> dict[str, _Held]:
    found = {}
    for part in chunks(dict.fromkeys(keys)):
        for row in connection.execute(select(RESERVATIONS).where(RESERVATIONS.c.key.in_(part))):
            found[row.key] = _Held(row.budget, row.amount, row.spent)
    return found


def _hold(connection: Connection, changed: Mapping[str, _Held], now: int) -> None:
    rows = [{"key": key, "budget": h.budget, "amount": h.amount, "created_at": now} for key, h in changed.items()]
    if rows:
        statement = insert(connection, RESERVATIONS)
        raised = {"amount": statement.excluded.amount}
        connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_=raised), rows)


def _move(connection: Connection, budget: str, *, reserved: int, spent: int) -> None:
    change = update(BUDGETS).where(BUDGETS.c.name == budget)
    connection.execute(change.values(reserved=BUDGETS.c.reserved + reserved, spent=BUDGETS.c.spent + spent))


def _micros(amount: float, field: str) -> int:
    micros = round(amount * MICROS)
    if micros < 0:
        raise StoreError("must not be negative", field=f"ledger.{field}", value=amount, fix="give an amount ≥ 0")
    return micros
