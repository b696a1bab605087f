"""The budget ledger: reserve before deciding, settle when decided; spent + reserved ≤ cap at every moment.

The guard is one conditional UPDATE, and a CHECK of the table behind it. Every key is used once: repeating a call changes nothing.
Amounts are kept in millionths of the currency, so sums are exact.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, case, select, update

from clm_ray.errors import StoreError
from clm_ray.store.engine import insert
from clm_ray.store.records import Budget, Reservation
from clm_ray.store.tables import BUDGETS, RESERVATIONS

MICROS = 1_000_000
"""Millionths per unit of currency."""


def reserve(
    connection: Connection, requests: Sequence[Reservation], *, budget: str, cap: float, now: int
) -> list[bool]:
    """Make each key hold at least its amount, in order; True where it does.

    A key that holds enough already, or is settled, is True and moves nothing; one that holds less is raised by the difference. A
    refusal leaves what the key held before. A `cap` below what is already committed stops all further reservations.
    """
    _set_cap(connection, budget, _micros(cap, "budget"))
    return [_reserve(connection, request, budget, now) for request in requests]


def settle(connection: Connection, key: str, *, amount: float) -> None:
    """Spend `amount` of what the key holds and give the rest back. Repeating it with the same amount does nothing.

    Raises StoreError: no such reservation, more than was reserved, settled before with another amount.
    """
    row = connection.execute(select(RESERVATIONS).where(RESERVATIONS.c.key == key)).one_or_none()
    spent = _micros(amount, "amount")
    if row is None:
        raise StoreError(
            "nothing is reserved under this key", field="ledger.key", value=key, fix="reserve before settling"
        )
    if row.spent is not None:
        if row.spent != spent:
            raise StoreError(
                f"settled before with {row.spent / MICROS:g}",
                field="ledger.amount",
                value=amount,
                fix="a key is settled once",
            )
        return
    if spent > row.amount:
        raise StoreError(
            f"more than the {row.amount / MICROS:g} reserved",
            field="ledger.amount",
            value=amount,
            fix="reserve the highest cost",
        )
    connection.execute(update(RESERVATIONS).where(RESERVATIONS.c.key == key).values(spent=spent))
    connection.execute(
        update(BUDGETS)
        .where(BUDGETS.c.name == row.budget)
        .values(reserved=BUDGETS.c.reserved - row.amount, spent=BUDGETS.c.spent + spent)
    )


def state(connection: Connection, *, budget: str) -> Budget:
    """Cap, reserved and spent; all zero for a budget never used."""
    row = connection.execute(select(BUDGETS).where(BUDGETS.c.name == budget)).one_or_none()
    if row is None:
        return Budget(0, 0, 0)
    return Budget(cap=row.cap, reserved=row.reserved, spent=row.spent)


def _set_cap(connection: Connection, budget: str, cap: int) -> None:
    statement = insert(BUDGETS).values(name=budget, cap=cap, reserved=0, spent=0)
    committed = BUDGETS.c.reserved + BUDGETS.c.spent
    effective = case((committed > cap, committed), else_=cap)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"cap": effective}))


def _reserve(connection: Connection, request: Reservation, budget: str, now: int) -> bool:
    amount = _micros(request.amount, "amount")
    held = connection.execute(select(RESERVATIONS).where(RESERVATIONS.c.key == request.key)).one_or_none()
    missing = amount if held is None else amount - held.amount
    if held is not None and (held.spent is not None or missing <= 0):
        return True
    granted = connection.execute(
        update(BUDGETS)
        .where(BUDGETS.c.name == budget, BUDGETS.c.reserved + BUDGETS.c.spent + missing <= BUDGETS.c.cap)
        .values(reserved=BUDGETS.c.reserved + missing)
    )
    if granted.rowcount == 0:
        return False
    row = {"key": request.key, "budget": budget, "amount": amount, "created_at": now}
    connection.execute(
        insert(RESERVATIONS).values(row).on_conflict_do_update(index_elements=["key"], set_={"amount": amount})
    )
    return True


def _micros(amount: float, field: str) -> int:
    micros = round(amount * MICROS)
    if micros < 0:
        raise StoreError("must not be negative", field=f"ledger.{field}", value=amount, fix="give an amount ≥ 0")
    return micros
