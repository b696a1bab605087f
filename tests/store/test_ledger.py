"""The ledger never spends more than its cap, whatever is asked, repeated, or asked at once."""

from __future__ import annotations

import multiprocessing
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from clm_ray.errors import StoreError
from clm_ray.store.ledger import MICROS
from clm_ray.store.records import Budget, Reservation
from clm_ray.store.store import Store, open_store
from clm_ray.store.tables import RESERVATIONS

PROCESSES = 4
KEYS = 2000
_fresh = count()

CENTS = st.integers(0, 500)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "settle"]),
        st.integers(0, 5),
        CENTS,
        st.sampled_from([300, 1000]),
        st.sampled_from([0, 0, 3, 11]),
    ),
    max_size=15,
)


def micros(amount: float) -> int:
    return round(amount * MICROS)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_never_overspent_and_exact(store: Store, steps: list[tuple[str, int, int, int, int]]) -> None:
    """Cents by key in plain dicts say what must be; reservations go stale after 10 µs."""
    budget = f"budget-{next(_fresh)}"
    held: dict[str, int] = {}
    spent: dict[str, int] = {}
    made: dict[str, int] = {}
    now = 0
    for what, number, cents, cap, pause in steps:
        key, amount, now = f"{budget}-{number}", cents / 100, now + pause
        if what == "reserve":
            held = {k: cents_held for k, cents_held in held.items() if now - made[k] <= 10}
            committed = sum(spent.values()) + sum(held.values())
            more = cents - held.get(key, 0)
            held_enough = key in spent or (key in held and more <= 0)
            expected = held_enough or committed + more <= max(cap, committed)
            granted = store.reserve([Reservation(key, amount)], cap=cap / 100, now=now, stale_us=10, budget=budget)
            assert granted == [expected]
            if expected and not held_enough:
                made[key] = made[key] if key in held else now
                held[key] = cents
        elif key in held and cents <= held[key]:
            store.settle({key: amount})
            spent[key] = cents
            del held[key]
        elif spent.get(key) == cents:
            store.settle({key: amount})
        else:
            with pytest.raises(StoreError):
                store.settle({key: amount})
        state = store.budget(budget)
        assert state.reserved + state.spent <= state.cap
        assert (state.reserved, state.spent) == (
            sum(held.values()) * MICROS // 100,
            sum(spent.values()) * MICROS // 100,
        )


def test_tenths_add_up_exactly(store: Store) -> None:
    granted = store.reserve([Reservation(f"k{n}", 0.1) for n in range(12)], cap=1.0, now=0)
    assert granted == [True] * 10 + [False] * 2
    assert store.budget() == Budget(cap=MICROS, reserved=MICROS, spent=0)


def test_repeating_a_call_changes_nothing(store: Store) -> None:
    for _ in range(3):
        assert store.reserve([Reservation("k", 5.0)], cap=6.0, now=0) == [True]
    for _ in range(3):
        store.settle({"k": 2.0})
    assert store.reserve([Reservation("k", 5.0)], cap=6.0, now=0) == [True]
    assert store.budget() == Budget(cap=micros(6), reserved=0, spent=micros(2))
    with pytest.raises(StoreError, match="settled before with 2"):
        store.settle({"k": 3.0})


def test_a_refusal_keeps_what_was_held(store: Store) -> None:
    requests = [Reservation("k", 2.0), Reservation("k", 9.0), Reservation("k", 1.0)]
    assert store.reserve(requests, cap=5.0, now=0) == [True, False, True]
    assert store.budget().reserved == micros(2)


def test_a_lowered_cap_stops_spending(store: Store) -> None:
    store.reserve([Reservation("a", 8.0)], cap=10.0, now=0)
    assert store.reserve([Reservation("b", 0.5)], cap=3.0, now=0) == [False]
    assert store.budget() == Budget(cap=micros(8), reserved=micros(8), spent=0)
    store.settle({"a": 1.0})
    assert store.reserve([Reservation("b", 2.0), Reservation("c", 0.1)], cap=3.0, now=0) == [True, False]


def test_what_cannot_be_settled_is_told(store: Store) -> None:
    with pytest.raises(StoreError, match="nothing is reserved"):
        store.settle({"k": 1.0})
    store.reserve([Reservation("k", 1.0)], cap=5.0, now=0)
    with pytest.raises(StoreError, match="more than the 1 reserved"):
        store.settle({"k": 1.5})
    with pytest.raises(StoreError, match="must not be negative"):
        store.reserve([Reservation("n", -1.0)], cap=5.0, now=0)
    assert store.budget("never used") == Budget(0, 0, 0)


def spend(url: str, worker: int, results: multiprocessing.SimpleQueue[tuple[int, int]]) -> None:
    """One process: reserve 2, settle 1 of it, many times; half of the keys are shared with the other processes."""
    own = shared = 0
    with open_store(url) as store:
        for n in range(0, KEYS // PROCESSES, 5):
            keys = [f"shared-{k}" if k % 2 else f"own-{worker}-{k}" for k in range(n, n + 5)]
            granted = store.reserve([Reservation(key, 2.0) for key in keys], cap=700.0, now=0)
            store.settle({key: 1.0 for key, yes in zip(keys, granted, strict=True) if yes})
            for key, yes in zip(keys, granted, strict=True):
                if yes:
                    own, shared = own + key.startswith("own"), shared + key.startswith("shared")
    results.put((own, shared))


def test_processes_together_never_overspend(store_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.SimpleQueue[tuple[int, int]] = context.SimpleQueue()
    processes = [context.Process(target=spend, args=(store_url, worker, results)) for worker in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    own = sum(results.get()[0] for _ in processes)
    with open_store(store_url, create=False) as store:
        state = store.budget()
        with store.reading() as connection:
            keys = connection.execute(select(RESERVATIONS.c.key)).scalars().all()
    assert state.reserved == 0
    assert (
        state.spent == micros(len(keys)) <= state.cap == micros(700)
    )  # each key was paid once, however many processes asked
    assert own == sum(key.startswith("own") for key in keys)
    assert state.spent >= micros(698)
