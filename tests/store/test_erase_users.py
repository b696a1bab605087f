"""Erased users are gone from every table; others and the budget's sums stay."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import func, inspect, select

from clm_ray.store import tables
from clm_ray.store.history import empty_history, merge
from clm_ray.store.ledger import MICROS
from clm_ray.store.records import Reservation, RetentionDecision, ServedSlate, StoredEvent, UserOverlay
from clm_ray.store.store import Store

Decide = Callable[..., RetentionDecision]


def fill(store: Store, user: str, decision: Decide) -> None:
    """Something of the user in every table."""
    mine = [StoredEvent(f"{user}-base", user, "click", 1, item_id="i")]
    store.load_base([(merge(empty_history(user), [], mine), [f"{user}-base"])], dataset="d")
    store.append_events([StoredEvent(f"{user}-1", user, "click", 5, item_id="i")], received_at=6)
    store.put_overlays([UserOverlay(user, consent=True, timezone="UTC")])
    booked = decision(user_id=user, cost=2.0)
    assert store.reserve([Reservation(booked.action_id, 3.0)], cap=100.0, now=1) == [True]
    store.book([booked])
    store.log_slates([ServedSlate(f"slate-{user}", user, 7, "r1", ("i",), (0.5,), booked.action_id)])


def count(store: Store, name: str) -> int:
    with store.reading() as connection:
        return int(connection.execute(select(func.count()).select_from(tables.METADATA.tables[name])).scalar_one())


def test_nothing_of_an_erased_user_stays(store: Store, decision: Decide) -> None:
    for user in ("ann", "bob"):
        fill(store, user, decision)
    erased = store.erase(["ann", "nobody"])
    assert erased.decisions == ["slate-ann"]
    names = ("history_base", "events", "users", "served_slates", "retention_decisions", "reservations", "audit_keys")
    assert erased.removed.pop("audit_log") == 1
    assert erased.removed == dict.fromkeys(names, 1)
    assert {name: count(store, name) for name in names} == dict.fromkeys(names, 1), "bob's are there"
    assert len(store.histories(["ann", "bob"])["ann"]) == 0
    assert store.budget().spent == 4 * MICROS, "what was paid was paid"
    assert store.erase(["ann"]).removed == dict.fromkeys([*names, "audit_log"], 0)


def test_a_user_who_comes_back_is_decided_about_anew(store: Store, decision: Decide) -> None:
    fill(store, "ann", decision)
    store.erase(["ann"])
    fill(store, "ann", decision)
    assert store.budget().spent == 4 * MICROS


def test_every_table_with_users_is_known_here(store: Store) -> None:
    with store.reading() as connection:
        found = {
            name
            for name in inspect(connection).get_table_names()
            if "user_id" in {column["name"] for column in inspect(connection).get_columns(name)}
        }
    assert found <= set(store.erase(["nobody"]).removed)
