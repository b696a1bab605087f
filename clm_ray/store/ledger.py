"""The budget ledger: reserve before deciding, settle when decided; spent + reserved ≤ cap at every moment.

A reservation is paid from the process's lease (`store.leases`), so that most decisions do not touch the budget. The tables themselves refuse a
budget or a lease that is overdrawn. What a process that died had reserved is used by whoever tries the same decision again, or
given back once it is too old to be booked. Every key is used once: repeating a call, from any process, changes nothing. Amounts are kept in
millionths of the currency, so sums are exact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, func, select, update

from clm_ray.errors import StoreError
from clm_ray.store.engine import chunks, insert
from clm_ray.store.leases import Holder, Lease, draw, lock_budget, locked_lease, peek, put_under_cap, settle_with
from clm_ray.store.records import Budget, Reservation
from clm_ray.store.tables import BUDGETS, LEASES, RESERVATIONS

MICROS = 1_000_000
"""Millionths per unit of currency."""


@dataclass(frozen=True)
class Held:
    """What a key holds, and what was spent of it once it is settled. Millionths."""

    budget: str
    amount: int
    spent: int | None


@dataclass(frozen=True)
class _Plan:
    """Which requests are granted, what keys will hold that do not yet, and what that costs. Millionths."""

    granted: list[bool]
    changed: dict[str, int]
    cost: int


def reserve(
    connection: Connection,
    requests: Sequence[Reservation],
    *,
    budget: str,
    cap: float,
    now: int,
    holder: Holder,
    stale_us: int | None = None,
) -> list[bool]:
    """Make each key hold at least its amount, in order; True where it does.

    A key that holds enough already, or is settled, is True and moves nothing; one that holds less is raised by the difference. A
    refusal leaves what the key held before. A `cap` below what is already committed stops all further reservations of this process at once, and
    those of another when it hears of the cap or its lease is used up. Reservations of this budget that are not settled `stale_us`
    after they were made (µs; None: never) are released first.
    """
    asked = [(request.key, _micros(request.amount, "amount")) for request in requests]
    most = _micros(cap, "budget")
    lease = locked_lease(connection, holder, budget=budget, cap=most)
    if stale_us is not None:
        lease.free += _release(connection, budget, made_before=now - stale_us)
    put_under_cap(connection, lease, cap=most)
    granted = [False] * len(asked)
    places = list(range(len(asked)))
    while places:
        held = holdings(connection, [asked[place][0] for place in places])
        plan = _affordable(connection, lease, [asked[place] for place in places], held)
        lost = _hold(connection, plan.changed, held, budget=budget, now=now)
        lease.free -= plan.cost - sum(plan.changed[key] for key in lost)
        for place, yes in zip(places, plan.granted, strict=True):
            granted[place] = yes
        places = [place for place in places if asked[place][0] in lost]  # another process was faster: see what it holds
    lease.save(connection)
    return granted


def settle(
    connection: Connection, amounts: Mapping[str, float], *, holder: Holder, held: Mapping[str, Held] | None = None
) -> None:
    """Spend, of what each key holds, this amount, and give the rest back. Repeating it with the same amounts does nothing.

    `held`: of these keys, as `holdings` said earlier in this transaction; None: to be looked up.
    Raises StoreError: no such reservation, more than was reserved, settled before with another amount.
    """
    held = holdings(connection, amounts) if held is None else held
    spent: dict[str, int] = {}
    for key, amount in amounts.items():
        if key not in held:
            raise StoreError(
                "nothing is reserved under this key", field="ledger.key", value=key, fix="reserve before settling"
            )
        before, micros = held[key], _micros(amount, "amount")
        if before.spent is None and micros <= before.amount:
            spent[key] = micros
        elif before.spent != micros:
            what = f"more than the {before.amount / MICROS:g} reserved"
            if before.spent is not None:
                what = f"settled before with {before.spent / MICROS:g}"
            raise StoreError(what, field="ledger.amount", value=amount, fix="reserve the highest cost, settle it once")
    if spent:
        change = update(RESERVATIONS).where(RESERVATIONS.c.key == bindparam("of_key"))
        rows = [{"of_key": key, "now_spent": micros} for key, micros in spent.items()]
        connection.execute(change.values(spent=bindparam("now_spent")), rows)
    of_budget: dict[str, list[str]] = defaultdict(list)
    for key in spent:
        of_budget[held[key].budget].append(key)
    for budget, keys in of_budget.items():
        total = sum(held[key].amount for key in keys), sum(spent[key] for key in keys)
        settle_with(connection, holder, budget=budget, held=total[0], spent=total[1])


def holdings(connection: Connection, keys: Iterable[str]) -> dict[str, Held]:
    """What those of these keys hold that have a reservation, settled or not. Locked until the transaction ends, in one order for all."""
    found = {}
    for part in chunks(sorted(set(keys))):
        query = select(RESERVATIONS).where(RESERVATIONS.c.key.in_(part)).order_by(RESERVATIONS.c.key)
        for row in connection.execute(query.with_for_update()):
            found[row.key] = Held(row.budget, row.amount, row.spent)
    return found


def state(connection: Connection, *, budget: str) -> Budget:
    """Cap, reserved, spent and leased; all zero for a budget never used."""
    of = LEASES.c
    sums = select(func.coalesce(func.sum(of.free), 0), func.coalesce(func.sum(of.spent), 0)).where(of.budget == budget)
    free, spent = map(int, connection.execute(sums).one())
    row = connection.execute(select(BUDGETS).where(BUDGETS.c.name == budget)).one_or_none()
    if row is None:
        return Budget(0, 0, 0, 0)
    return Budget(cap=row.cap, reserved=row.reserved - free - spent, spent=row.spent + spent, leased=free)


def _affordable(
    connection: Connection, lease: Lease, asked: Sequence[tuple[str, int]], held: Mapping[str, Held]
) -> _Plan:
    """What can be granted; the budget is asked only where the lease is not enough and the budget seems to have more."""
    plan = _plan(asked, held, lease.free)
    if all(plan.granted) or _plan(asked, held, lease.free + peek(connection, lease)).cost == plan.cost:
        return plan
    available = lock_budget(connection, lease)
    plan = _plan(asked, held, lease.free + available)
    if plan.cost > lease.free:
        draw(connection, lease, needed=plan.cost, available=available)
    return plan


def _plan(asked: Sequence[tuple[str, int]], held: Mapping[str, Held], free: int) -> _Plan:
    granted, changed, cost = [], dict[str, int](), 0
    for key, amount in asked:
        before = held.get(key)
        missing = amount - changed.get(key, before.amount if before else 0)
        done = (before is not None and before.spent is not None) or (missing <= 0 and (key in held or key in changed))
        granted.append(done or missing <= free - cost)
        if granted[-1] and not done:
            changed[key] = amount
            cost += missing
    return _Plan(granted, changed, cost)


def _release(connection: Connection, budget: str, *, made_before: int) -> int:
    """Give back what is reserved and not settled, as if it had never been asked for. Returns how much."""
    of = RESERVATIONS.c
    stale = select(of.key).where(of.budget == budget, of.spent.is_(None), of.created_at < made_before)
    which = of.key.in_(stale.with_for_update(skip_locked=True))  # whoever has it locked is settling it
    return sum(connection.execute(delete(RESERVATIONS).where(which).returning(of.amount)).scalars())


def _hold(
    connection: Connection, changed: Mapping[str, int], held: Mapping[str, Held], *, budget: str, now: int
) -> set[str]:
    """Write what keys hold now. Returns those that another process has made in the meantime."""
    raised = [{"of_key": key, "now_amount": amount} for key, amount in changed.items() if key in held]
    if raised:
        change = update(RESERVATIONS).where(RESERVATIONS.c.key == bindparam("of_key"))
        connection.execute(change.values(amount=bindparam("now_amount")), raised)
    new = [key for key in sorted(changed) if key not in held]
    if not new:
        return set()
    rows = [{"key": key, "budget": budget, "amount": changed[key], "created_at": now} for key in new]
    statement = insert(connection, RESERVATIONS).on_conflict_do_nothing().returning(RESERVATIONS.c.key)
    return set(new) - set(connection.execute(statement, rows).scalars())


def _micros(amount: float, field: str) -> int:
    micros = round(amount * MICROS)
    if micros < 0:
        raise StoreError("must not be negative", field=f"ledger.{field}", value=amount, fix="give an amount ≥ 0")
    return micros
