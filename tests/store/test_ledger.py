"""The ledger never spends more than its cap, whatever is asked, repeated, or asked at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Update, select
from sqlalchemy.exc import IntegrityError

from benchmarks.ledger import under_fire
from clm_ray.errors import StoreError
from clm_ray.store.leases import LEASE_US
from clm_ray.store.ledger import MICROS
from clm_ray.store.records import Budget, Reservation
from clm_ray.store.store import RETENTION_BUDGET, Store, open_store
from clm_ray.store.tables import BUDGETS, LEASES, RESERVATIONS

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


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        assert state.reserved + state.spent + state.leased <= state.cap
        assert (state.reserved, state.spent) == (
            sum(held.values()) * MICROS // 100,
            sum(spent.values()) * MICROS // 100,
        )


def test_tenths_add_up_exactly(store: Store) -> None:
    granted = store.reserve([Reservation(f"k{n}", 0.1) for n in range(12)], cap=1.0, now=0)
    assert granted == [True] * 10 + [False] * 2
    assert store.budget() == Budget(cap=MICROS, reserved=MICROS, spent=0, leased=0)


def test_repeating_a_call_changes_nothing(store: Store) -> None:
    for _ in range(3):
        assert store.reserve([Reservation("k", 5.0)], cap=6.0, now=0) == [True]
    for _ in range(3):
        store.settle({"k": 2.0})
    assert store.reserve([Reservation("k", 5.0)], cap=6.0, now=0) == [True]
    assert (store.budget().reserved, store.budget().spent) == (0, micros(2))
    with pytest.raises(StoreError, match="settled before with 2"):
        store.settle({"k": 3.0})


def test_a_refusal_keeps_what_was_held(store: Store) -> None:
    requests = [Reservation("k", 2.0), Reservation("k", 9.0), Reservation("k", 1.0)]
    assert store.reserve(requests, cap=5.0, now=0) == [True, False, True]
    assert store.budget().reserved == micros(2)


def test_a_lowered_cap_stops_spending(store: Store) -> None:
    store.reserve([Reservation("a", 8.0)], cap=10.0, now=0)
    assert store.reserve([Reservation("b", 0.5)], cap=3.0, now=0) == [False]
    assert store.budget() == Budget(cap=micros(8), reserved=micros(8), spent=0, leased=0)
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
    assert store.budget("never used") == Budget(0, 0, 0, 0)


class Processes:
    """Several processes on one store, as far as the ledger can tell: each has a lease of its own. Time passes as told."""

    def __init__(self, url: str) -> None:
        self.now, self._url, self._open = 0, url, dict[int, Store]()

    def __getitem__(self, number: int) -> Store:
        if number not in self._open:
            self._open[number] = open_store(self._url, connections=1, wall=lambda: self.now)
        return self._open[number]

    def die(self, number: int) -> None:
        """Without giving back the lease."""
        self[number].abandon()
        del self._open[number]

    def end(self, number: int) -> None:
        self[number].close()
        del self._open[number]

    def end_all(self) -> None:
        for number in list(self._open):
            self.end(number)


@pytest.fixture
def processes(store_url: str) -> Iterator[Processes]:
    processes = Processes(store_url)
    yield processes
    processes.end_all()


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "settle", "die", "end", "wait"]),
        st.integers(0, 2),
        st.integers(0, 9),
        st.integers(0, 500),
    ),
    max_size=25,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTS)
def test_many_processes_keep_one_budget(processes: Processes, acts: list[tuple[str, int, int, int]]) -> None:
    """Whatever they do, and whoever dies: what is granted is held, once; nothing is overspent; at the end all that was not spent is there."""
    budget, cap, held, spent = f"many-{next(_fresh)}", 2000, dict[str, int](), dict[str, int]()
    for what, number, key_number, cents in acts:
        key = f"{budget}-{key_number}"
        if what == "reserve":
            asked = [Reservation(key, cents / 100)]
            if processes[number].reserve(asked, cap=cap / 100, now=processes.now, budget=budget) == [True]:
                if key not in spent:
                    held[key] = max(held.get(key, 0), cents)
            else:
                assert key not in spent
                assert cents > held.get(key, -1)
        elif what == "settle" and key in held:
            spent[key] = min(cents, held.pop(key))
            processes[number].settle({key: spent[key] / 100})
        elif what == "die":
            processes.die(number)
        elif what == "end":
            processes.end(number)
        elif what == "wait":
            processes.now += LEASE_US // 2
        state = processes[number].budget(budget)
        assert state.reserved + state.spent + state.leased <= state.cap
        assert state.reserved == sum(held.values()) * MICROS // 100
        assert state.spent == sum(spent.values()) * MICROS // 100
    processes.now += 2 * LEASE_US
    left = cap - sum(held.values()) - sum(spent.values())
    rest = [Reservation(f"{budget}-rest", left / 100)]
    assert processes[0].reserve(rest, cap=cap / 100, now=processes.now, budget=budget) == [True]
    assert processes[0].budget(budget).leased == 0


def test_a_lease_spares_the_budget(store: Store) -> None:
    """After the first reservation the budget's row is left alone until the lease is used up."""

    def reserve_and_settle(number: int) -> tuple[int, ...]:
        store.reserve([Reservation(f"k{number}", 2.0)], cap=10_000.0, now=0)
        store.settle({f"k{number}": 1.0})
        with store.reading() as connection:
            return tuple(connection.execute(select(BUDGETS.c.reserved, BUDGETS.c.spent)).one())

    seen = [reserve_and_settle(n) for n in range(70)]
    assert seen[0] == seen[60] == (micros(2 * 32), 0), "refunds make it last longer than the 32 it was taken for"
    assert len(set(seen)) == 2


def test_the_last_of_a_budget_is_not_kept_in_leases(processes: Processes) -> None:
    for number in range(3):
        assert processes[number].reserve([Reservation(f"k{number}", 1.0)], cap=8.0, now=0) == [True]
    assert 0 < processes[0].budget().leased <= micros(3 * 8 / 16)


def test_a_process_that_ends_gives_back_its_lease(processes: Processes) -> None:
    processes[0].reserve([Reservation("a", 1.0)], cap=100.0, now=0)
    assert processes[0].budget().leased > 0
    processes.end(0)
    assert processes[1].budget() == Budget(cap=micros(100), reserved=micros(1), spent=0, leased=0)


def test_the_lease_of_a_dead_process_returns_when_it_is_needed(processes: Processes) -> None:
    processes[0].reserve([Reservation("a", 1.0)], cap=100.0, now=0)
    leased = processes[0].budget().leased
    processes.die(0)
    rest = [Reservation("b", 99.0)]
    assert processes[1].reserve(rest, cap=100.0, now=0) == [False]
    processes.now = LEASE_US + 1
    assert processes[1].reserve(rest, cap=100.0, now=0) == [True]
    assert leased > 0 == processes[1].budget().leased


def test_a_process_whose_lease_was_taken_away_takes_another(processes: Processes) -> None:
    processes[0].reserve([Reservation("a", 1.0)], cap=100.0, now=0)
    processes.now = LEASE_US + 1
    assert processes[1].reserve([Reservation("b", 98.0)], cap=100.0, now=0) == [True]
    processes[0].settle({"a": 0.5})
    assert processes[0].reserve([Reservation("c", 1.4), Reservation("d", 0.1)], cap=100.0, now=0) == [True, False]


def test_the_next_attempt_uses_what_the_dead_had_reserved(processes: Processes) -> None:
    assert processes[0].reserve([Reservation("a", 5.0)], cap=5.0, now=0) == [True]
    processes.die(0)
    assert processes[1].reserve([Reservation("a", 5.0), Reservation("b", 1.0)], cap=5.0, now=0) == [True, False]
    processes[1].settle({"a": 2.0})
    assert processes[1].reserve([Reservation("b", 3.0)], cap=5.0, now=0) == [True]


def test_what_nobody_comes_back_for_is_released(processes: Processes) -> None:
    processes[0].reserve([Reservation("a", 5.0)], cap=5.0, now=0)
    processes.die(0)
    assert processes[1].reserve([Reservation("b", 5.0)], cap=5.0, now=10, stale_us=10) == [False]
    assert processes[1].reserve([Reservation("b", 5.0)], cap=5.0, now=11, stale_us=10) == [True]


def test_threads_of_a_process_share_its_lease(store: Store) -> None:
    """Also when all are the first: one makes the budget, one the lease."""
    with ThreadPoolExecutor(6) as pool:
        asked = [[Reservation(f"k{n}", 1.0)] for n in range(6)]
        assert list(pool.map(lambda one: store.reserve(one, cap=100.0, now=0), asked)) == [[True]] * 6
        list(pool.map(lambda n: store.settle({f"k{n}": 0.5}), range(6)))
    assert (store.budget().reserved, store.budget().spent) == (0, micros(3))


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_who_pays_from_a_lease_holds_up_nobody_who_takes_one(processes: Processes) -> None:
    """Rows that refer to a budget lock it a little: not so that its amounts could not change."""
    processes[0].reserve([Reservation("a", 1.0)], cap=1000.0, now=0)
    with ThreadPoolExecutor(1) as pool, processes[0].writing() as connection:
        connection.execute(RESERVATIONS.insert().values(key="b", budget=RETENTION_BUDGET, amount=0, created_at=0))
        taken = pool.submit(processes[1].reserve, [Reservation("c", 1.0)], cap=1000.0, now=0)
        assert taken.result(timeout=20) == [True]


@pytest.mark.parametrize(
    "change",
    [BUDGETS.update().values(spent=BUDGETS.c.cap + 1), LEASES.update().values(free=-1)],
    ids=["budget", "lease"],
)
def test_the_tables_refuse_what_is_overdrawn(store: Store, change: Update) -> None:
    store.reserve([Reservation("k", 1.0)], cap=5.0, now=0)
    with pytest.raises(IntegrityError), store.writing() as connection:
        connection.execute(change)


def test_processes_that_are_killed_never_overspend(store_url: str) -> None:
    """The small edition of `python -m benchmarks.ledger`."""
    open_store(store_url).close()
    found = under_fire(store_url, reservations=600, processes=3, kills=3)
    assert found.pop("kills") == 3
    assert {name: found[name] for name in ("overspend", "doubled", "lost", "unreturned")} == dict.fromkeys(
        ("overspend", "doubled", "lost", "unreturned"), 0
    )
    assert 0 < found["decisions"] <= 600 - found["abandoned"]
