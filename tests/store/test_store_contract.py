"""What every backend must do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from clm_ray.errors import StoreError
from clm_ray.store.clock import open_clock
from clm_ray.store.history import empty_history, merge
from clm_ray.store.ledger import MICROS
from clm_ray.store.records import (
    MaskRecord,
    Override,
    Reservation,
    RetentionDecision,
    ServedSlate,
    StoredEvent,
    UserOverlay,
    Verdict,
)
from clm_ray.store.store import Store, open_store

A, D = Verdict.ACCEPTED, Verdict.DUPLICATE


def event(event_id: str, *, user: str = "u", time: int = 1, item: str | None = "i") -> StoredEvent:
    return StoredEvent(event_id, user, "click", time, item_id=item, value=1.5, context={"page": "home"})


def load(store: Store, user: str, events: list[StoredEvent], *, dataset: str = "d1") -> None:
    history = merge(empty_history(user), [], events)
    ids = [e.event_id for e in sorted(events, key=lambda e: (e.timestamp, e.event_id))]
    store.load_base([(history, ids)], dataset=dataset)


def test_events_are_there_for_the_next_process(store: Store, store_url: str) -> None:
    assert store.append_events([event("1"), event("2", time=5)], received_at=9) == [A, A]
    with open_store(store_url, create=False) as other:
        assert other.histories(["u"])["u"].time_N.tolist() == [1, 5]


def test_an_id_is_one_event_whatever_else_it_says(store: Store) -> None:
    load(store, "u", [event("base")])
    batch = [event("1"), event("1", time=7), event("base", time=8), event("2")]
    assert store.append_events(batch, received_at=9) == [A, D, D, A]
    assert store.append_events([event("1", user="v"), event("3")], received_at=10) == [D, A]
    assert store.append_events([], received_at=11) == []
    assert len(store.histories(["u"])["u"]) == 4


def test_large_batches_keep_their_order(store: Store) -> None:
    batch = [event(f"{n}", user=f"u{n % 700}", time=n) for n in range(3000)]
    assert store.append_events(batch, received_at=0) == [A] * 3000
    assert store.append_events([*batch, event("new")], received_at=0) == [*[D] * 3000, A]
    histories = store.histories([f"u{n}" for n in range(700)])
    assert sum(map(len, histories.values())) == 3000


def test_histories_merge_base_and_events_in_their_place(store: Store) -> None:
    load(store, "u", [event("b", time=10), event("d", time=30, item=None)])
    store.append_events([event("e", time=40, item="new"), event("a", time=10), event("c", time=20)], received_at=50)
    histories = store.histories(["u", "nobody", "u"])
    assert list(histories) == ["u", "nobody"]
    assert histories["u"].time_N.tolist() == [10, 10, 20, 30, 40]
    assert [None if c < 0 else histories["u"].items[c] for c in histories["u"].item_code_N] == [
        "i",
        "i",
        "i",
        None,
        "new",
    ]
    assert len(histories["nobody"]) == 0


def test_recent_events_are_read_but_not_kept(store: Store) -> None:
    load(store, "u", [event("b", time=10)])
    store.append_events([event("c", time=20)], received_at=50)
    recent = {"u": [event("c", time=20), event("a", time=5), event("b", time=10)], "w": [event("w", user="w")]}
    assert store.histories(["u", "w"], recent=recent)["u"].time_N.tolist() == [5, 10, 20]
    assert len(store.histories(["w"], recent=recent)["w"]) == 1
    assert store.histories(["u"])["u"].time_N.tolist() == [10, 20]


def test_a_new_base_counts_no_event_twice(store: Store) -> None:
    load(store, "u", [event("1", time=1)])
    store.append_events([event("2", time=2), event("3", time=3)], received_at=9)
    load(store, "u", [event("1", time=1), event("2", time=2)], dataset="d2")
    assert store.histories(["u"])["u"].time_N.tolist() == [1, 2, 3]


def test_overlays_are_replaced(store: Store) -> None:
    store.put_overlays([UserOverlay("u", consent=False), UserOverlay("v", timezone="Asia/Tokyo")])
    store.put_overlays([UserOverlay("u", consent=True, timezone="UTC")])
    assert store.overlays(["u", "v", "w"]) == {
        "u": UserOverlay("u", True, "UTC"),
        "v": UserOverlay("v", None, "Asia/Tokyo"),
    }


def test_a_decision_comes_back_as_it_was(store: Store, decision: Callable[..., RetentionDecision]) -> None:
    made = decision(
        masks=(MaskRecord("win_back", "eligibility", "why"),), last_taken={"coupon": 5}, probabilities=(0.1, 0.9)
    )
    assert store.book([made]) == [made]
    assert store.decisions_of([("u", 1), ("u", 2), ("v", 1)]) == {("u", 1): made}


def test_user_and_epoch_have_one_decision(store: Store, decision: Callable[..., RetentionDecision]) -> None:
    first = decision(time=10)
    second = decision(time=20, action_id="another", action="none")
    other = decision(user_id="v")
    assert store.book([first, second, other]) == [first, first, other]
    assert store.book([second, decision(epoch=2)]) == [first, decision(epoch=2)]


def test_an_override_keeps_what_was_drawn(store: Store, decision: Callable[..., RetentionDecision]) -> None:
    booked = store.book([decision()])[0]
    for time in (30, 40):
        changed = store.override([booked.action_id], by=Override("none", "consent", time))
    assert changed == [replace(booked, overrides=(Override("none", "consent", 30),))]
    assert (changed[0].in_force, changed[0].action, booked.in_force) == ("none", "coupon", "coupon")
    assert store.book([decision(time=50)]) == changed
    assert store.last_actions(["u"]) == {"u": {"coupon": booked.epoch_start}}


def test_last_actions_are_the_latest_of_each(store: Store, decision: Callable[..., RetentionDecision]) -> None:
    store.book(
        [
            decision(epoch=1, epoch_start=10, time=11),
            decision(epoch=2, epoch_start=20, time=21),
            decision(epoch=3, epoch_start=30, time=31, action="none"),
            decision(epoch=4, epoch_start=25, time=26, action="reminder"),
        ]
    )
    assert store.last_actions(["u", "v"]) == {"u": {"coupon": 20, "reminder": 25}}


def test_booking_settles_what_was_reserved(store: Store, decision: Callable[..., RetentionDecision]) -> None:
    made = decision(cost=2.0)
    store.reserve([Reservation(made.action_id, 5.0)], cap=10.0, now=0)
    assert store.book([made, decision(cost=3.0)]) == [made, made]
    store.book([decision(cost=2.0, time=99)])
    assert (store.budget().reserved, store.budget().spent) == (0, 2 * MICROS)
    with pytest.raises(StoreError, match="needs a reservation"):
        store.book([decision(epoch=2), decision(epoch=3, cost=1.0)])
    assert store.decisions_of([("u", 2), ("u", 3)]) == {}  # all or nothing


def test_a_slate_is_logged_once(store: Store, decision: Callable[..., RetentionDecision]) -> None:
    booked = store.book([decision()])[0]
    slate = ServedSlate("s1", "u", 5, "r1", ("a", "b"), (0.5, 0.25), action_id=booked.action_id, degraded="no history")
    later = ServedSlate("s2", "u", 6, "r1", ("a",), (0.5,), action_id=booked.action_id)
    store.log_slates([slate, later])
    store.log_slates([ServedSlate("s1", "u", 7, "r2", (), ())])
    store.log_slates([])
    assert store.slates_of(["s1", "s2", "s3"]) == {"s1": slate, "s2": later}


def test_the_clock_offset_is_set_once(store: Store) -> None:
    with pytest.raises(StoreError, match="publish"):
        open_clock(store, kind="log_end")
    assert store.set_clock_offset_once(-100) == -100
    assert store.set_clock_offset_once(-900) == -100
    clock = open_clock(store, kind="log_end", wall=lambda: 1000)
    assert clock.now_us() == 900
    assert open_clock(store, kind="wall", wall=lambda: 1000).now_us() == 1000


def test_a_failed_write_leaves_nothing(store: Store) -> None:
    def write_and_fail() -> None:
        with store.writing() as connection:
            connection.exec_driver_sql("INSERT INTO settings (key, value) VALUES ('half', 'done')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    with store.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM settings WHERE key = 'half'").scalar() == 0


def test_threads_share_a_store(store: Store) -> None:
    verdicts: list[Verdict] = []

    def write(worker: int) -> None:
        for n in range(10):
            verdicts.extend(store.append_events([event("shared"), event(f"{worker}-{n}")], received_at=0))

    threads = [Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts.count(A) == 41
    assert len(store.histories(["u"])["u"]) == 41


def test_processes_that_send_the_same_events_store_each_once(store: Store, store_url: str) -> None:
    """Each store of this test writes beside the others, as processes do."""
    ids = [f"{n}" for n in range(40)]
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        stores = [store, *(stack.enter_context(open_store(store_url, create=False)) for _ in range(3))]
        orders = [ids, ids[::-1], ids[20:] + ids[:20], ids[::2] + ids[1::2]]
        batches = [[event(n, time=int(n)) for n in order] for order in orders]
        verdicts = list(pool.map(lambda s, batch: s.append_events(batch, received_at=0), stores, batches))
    assert sum(verdict.count(A) for verdict in verdicts) == 40
    assert store.histories(["u"])["u"].time_N.tolist() == list(range(40))


def test_processes_that_decide_at_once_agree(
    store: Store, store_url: str, decision: Callable[..., RetentionDecision]
) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        stores = [store, *(stack.enter_context(open_store(store_url, create=False)) for _ in range(3))]
        made = [[decision(user_id=f"u{n}", time=who) for n in range(20)] for who in range(4)]
        booked = list(pool.map(lambda s, batch: s.book(batch), stores, made))
    assert all(batch == booked[0] for batch in booked)
    assert len({d.action_id for d in booked[0]}) == 20
    assert store.verify_audit().entries == 20


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_postgres_acknowledges_what_is_on_disk(store: Store, store_url: str) -> None:
    with store.writing() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    careless = store_url.replace("options=", "options=-csynchronous_commit%3Doff%20")
    with open_store(careless) as opened, opened.writing() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_connections_that_the_server_closed_are_replaced(store: Store) -> None:
    store.append_events([event("1")], received_at=0)
    with store.writing() as connection:
        closed = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        connection.exec_driver_sql(f"{closed} AND application_name = 'clm_ray'")
    assert store.append_events([event("1"), event("2")], received_at=0) == [D, A]


def test_the_url_says_how_many_connections(store_url: str) -> None:
    with open_store(f"{store_url}{'&' if '?' in store_url else '?'}connections=1") as store:
        assert store.append_events([event("1")], received_at=0) == [A]


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_sqlite_keeps_what_it_acknowledged(store: Store) -> None:
    with store.reading() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense", "not an SQLAlchemy URL"),
        ("mysql://user:secret@host/db", "not supported"),
        ("sqlite://", "needs a file"),
        ("postgresql://user:secret@host", "names no database"),
        ("postgresql+asyncpg://user:secret@host/db", "not supported"),
        ("postgresql://user:secret@127.0.0.1:1/db", "cannot be used"),
        ("postgresql://user:secret@127.0.0.1/db?connections=none", "not a count"),
    ],
)
def test_a_url_that_cannot_work_is_told(url: str, problem: str) -> None:
    with pytest.raises(StoreError, match=problem) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_a_store_that_is_not_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store yet"):
        open_store(f"sqlite:///{tmp_path / 'none.db'}", create=False)
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "text.db").write_text("this is not a database, however long it may be " * 100)
    with pytest.raises(StoreError, match="cannot be used"):
        open_store(f"sqlite:///{tmp_path / 'text.db'}")
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match="has no tables"):
        open_store(f"sqlite:///{tmp_path / 'empty.db'}", create=False)


def test_the_mark_of_a_history_changes_with_every_event_and_with_its_base_alone(store: Store) -> None:
    before = store.marks(["ann", "bob"])
    store.append_events([StoredEvent("m1", "ann", "purchase", 1_000)], received_at=1_000)
    after = store.marks(["ann", "bob"])
    assert after["ann"] != before["ann"]
    assert after["bob"] == before["bob"]
    store.append_events([StoredEvent("m1", "ann", "purchase", 1_000)], received_at=2_000)
    assert store.marks(["ann"])["ann"] == after["ann"], "a duplicate changes nothing"
    store.append_events([StoredEvent("m0", "ann", "purchase", 5)], received_at=2_000)
    late = store.marks(["ann"])["ann"]
    assert late not in (before["ann"], after["ann"])
    history = store.histories(["ann"])["ann"]
    store.load_base([(history, ["m0", "m1"])], dataset="d2")
    assert store.marks(["ann"])["ann"] != late
