"""Erased users are gone from every table; others and the budget's sums stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import func, inspect, select

from clm_ray.errors import RequestError
from clm_ray.store import tables
from clm_ray.store.answers import Claim
from clm_ray.store.contacts import put_channel_consents
from clm_ray.store.deliveries import claim
from clm_ray.store.history import empty_history, merge
from clm_ray.store.ledger import MICROS
from clm_ray.store.records import Reservation, RetentionDecision, ServedSlate, ShadowSlate, StoredEvent, UserOverlay
from clm_ray.store.shadow import log_shadows
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
    with store.writing() as connection:
        put_channel_consents(connection, user, {"email": True}, now=6)
        claim(connection, [replace(booked, channel="email")], campaign="june", part="00000", now=6)
    store.log_slates([ServedSlate(f"slate-{user}", user, 7, "r1", ("i",), (0.5,), booked.action_id)])
    key = Claim(f"key-{user}", body="b", token="t", user_id=user, claimed_until=9, expires_at=999)
    store.claim_answers([key], now=1)
    assert log_shadows(store, [ShadowSlate(f"slate-{user}", user, 7, "r2", ("i",), (0.5,), (0.5,))]) == 1


def count(store: Store, name: str) -> int:
    with store.reading() as connection:
        return int(connection.execute(select(func.count()).select_from(tables.METADATA.tables[name])).scalar_one())


def test_nothing_of_an_erased_user_stays(store: Store, decision: Decide) -> None:
    for user in ("ann", "bob"):
        fill(store, user, decision)
    erased = store.erase(["ann", "nobody"], at=9)
    assert erased.decisions == ["slate-ann"]
    names = (
        *("history_base", "events", "users", "served_slates", "retention_decisions", "reservations", "audit_keys"),
        *("kept_answers", "shadow_slates", "channel_consents", "deliveries"),
    )
    assert erased.removed.pop("audit_log") == 1
    assert erased.removed == dict.fromkeys(names, 1)
    assert {name: count(store, name) for name in names} == dict.fromkeys(names, 1), "bob's are there"
    assert len(store.histories(["ann", "bob"])["ann"]) == 0
    assert store.budget().spent == 4 * MICROS, "what was paid was paid"
    assert store.erase(["ann"], at=9).removed == dict.fromkeys([*names, "audit_log"], 0)


def test_a_user_who_comes_back_is_decided_about_anew(store: Store, decision: Decide) -> None:
    fill(store, "ann", decision)
    store.erase(["ann"], at=9)
    fill(store, "ann", decision)
    assert store.budget().spent == 4 * MICROS


def test_every_table_with_users_is_known_here(store: Store) -> None:
    with store.reading() as connection:
        found = {
            name
            for name in inspect(connection).get_table_names()
            if "user_id" in {column["name"] for column in inspect(connection).get_columns(name)}
        }
    assert found <= set(store.erase(["nobody"], at=9).removed)


def test_nothing_of_the_time_before_the_erasure_is_taken_in_again(store: Store, decision: Decide) -> None:
    fill(store, "ann", decision)
    store.erase(["ann"], at=100)
    old, new = StoredEvent("late", "ann", "click", 99, item_id="i"), StoredEvent("new", "ann", "click", 100)
    other = StoredEvent("other", "bob", "click", 1)
    assert store.append_events([old, new, other], received_at=200) == ["erased", "accepted", "accepted"]
    before = [StoredEvent(f"old-{t}", "ann", "click", t, item_id=f"i{t}") for t in (1, 99, 100, 150)]
    base = merge(empty_history("ann"), [], before)
    store.load_base([(base, [event.event_id for event in before])], dataset="made before the erasure")
    history = store.histories(["ann"])["ann"]
    assert history.time_N.tolist() == [100, 100, 150]
    assert set(history.items) == {"i100", "i150"}


def test_a_tombstone_names_its_user_only_until_the_files_are_erased_too(store: Store) -> None:
    store.erase(["ann", "bob"], at=100, pending=True)
    assert store.pending_erasures() == ["ann", "bob"]
    store.finish_erasures(["ann"])
    assert store.pending_erasures() == ["bob"]
    with store.reading() as connection:
        rows = connection.execute(select(tables.ERASED_USERS)).all()
    assert sum("ann" in str(row) for row in rows) == 0


def test_a_user_can_take_along_all_that_is_kept_page_by_page(store: Store, decision: Decide) -> None:
    for user in ("ann", "bob"):
        fill(store, user, decision)
    whole = store.export("ann")
    kinds = ["history_base", "events", "users", "shadow_slates", "channel_consents", "deliveries"]
    kinds += ["served_slates", "retention_decisions", "kept_answers", "audit_log"]
    assert [one.kind for one in whole] == kinds
    assert whole[0].data["event_id"] == "ann-base"
    assert whole[6].data["record"]["items"] == ["i"]
    assert "bob" not in str(whole)
    pages, after = [], None
    while page := store.export("ann", after=after, limit=2):
        pages.append(len(page))
        after = page[-1].place
        assert page == whole[sum(pages[:-1]) : sum(pages)]
    assert pages == [2, 2, 2, 2, 2]
    for place in ((99, [1]), (0, [1, 2]), (-1, [1])):
        with pytest.raises(RequestError, match="cursor"):
            store.export("ann", after=place)
