"""Erased users are gone from every table; others and the budget's sums stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, inspect, select
from sqlalchemy.exc import IntegrityError

from clm_ray.errors import RequestError
from clm_ray.store import decisions, tables
from clm_ray.store.answers import Claim, Kept
from clm_ray.store.contacts import put_channel_consents
from clm_ray.store.deliveries import claim
from clm_ray.store.erase import OF_USERS
from clm_ray.store.export import START
from clm_ray.store.history import empty_history, merge
from clm_ray.store.ledger import MICROS
from clm_ray.store.records import (
    NotLogged,
    Override,
    Reservation,
    RetentionDecision,
    ServedSlate,
    ShadowSlate,
    StoredEvent,
    UserOverlay,
)
from clm_ray.store.shadow import log_shadows
from clm_ray.store.store import Store, open_store

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
    store.erase(["ann"], at=7)
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
    assert store.export("ann", after=START) == whole
    assert store.export("ann", after=None, limit=0) == []


@pytest.mark.parametrize(
    "place",
    [
        *((99, [1]), (-1, [1]), (0, [1, 2]), (0, []), (0, ["abc"]), (0, [1.5]), (0, [None]), (0, [True]), (0, [[1]])),
        *((1, ["abc"]), (1, [2**63]), (1, [-(2**63) - 1]), (2, [5]), (2, [None]), (2, ["a\0b"])),
        *((3, ["s"]), (3, ["s", 2]), (4, [{"a": 1}, "x"]), (9, ["1"])),
    ],
)
def test_a_place_that_is_none_is_refused(store: Store, decision: Decide, place: tuple[int, list[Any]]) -> None:
    fill(store, "ann", decision)
    with pytest.raises(RequestError, match="cursor"):
        store.export("ann", after=place)


# requests that are under way


def slate(user: str, *, time: int, action_id: str | None = None) -> ServedSlate:
    return ServedSlate(f"{user}-{time}", user, time, "r1", ("i",), (0.5,), action_id)


def test_a_slate_of_the_time_before_is_not_logged_and_costs_nobody_else(store: Store, decision: Decide) -> None:
    booked = {made.user_id: made.action_id for made in store.book([decision(user_id=u) for u in ("ann", "bob")])}
    store.erase(["ann"], at=100)
    claims = [Claim(f"key-{u}", body="b", token=u, user_id=u, claimed_until=900, expires_at=999) for u in booked]
    assert [one.status for one in store.claim_answers(claims, now=100)] == ["mine", "mine"]
    slates = [slate(user, time=99, action_id=action_id) for user, action_id in booked.items()]
    kept = [Kept(f"key-{u}", u, f"an answer to {u}", f"{u}-99") for u in booked]
    assert store.log_slates(slates, kept=kept) == NotLogged(frozenset({"key-ann"}), frozenset({"ann-99"}))
    assert store.slates_of(["ann-99", "bob-99"]) == {"bob-99": slates[1]}
    later = [replace(claim, token="later") for claim in claims]
    assert [one.answer for one in store.claim_answers(later, now=100)] == [None, "an answer to bob"]


def test_a_slate_of_the_time_since_does_not_speak_of_a_decision_that_is_gone(store: Store, decision: Decide) -> None:
    booked = {made.user_id: made.action_id for made in store.book([decision(user_id=u) for u in ("ann", "bob")])}
    store.erase(["ann"], at=100)
    slates = [slate(user, time=100, action_id=action_id) for user, action_id in booked.items()]
    assert store.log_slates(slates) == NotLogged()
    assert store.slates_of(["ann-100", "bob-100"]) == {
        "ann-100": replace(slates[0], action_id=None),
        "bob-100": slates[1],
    }
    (new,) = store.book([decision(user_id="ann", time=101)])
    store.log_slates([slate("ann", time=102, action_id=new.action_id)])
    assert store.slates_of(["ann-102"])["ann-102"].action_id == new.action_id


def test_a_decision_of_the_time_before_is_not_stored_and_costs_nobody_else(store: Store, decision: Decide) -> None:
    store.erase(["ann"], at=100)
    late, other = decision(user_id="ann", time=99, cost=2.0), decision(user_id="bob", time=99, cost=2.0)
    reserved = [Reservation(made.action_id, 3.0) for made in (late, other)]
    assert store.reserve(reserved, cap=100.0, now=99) == [True, True]
    told, booked = store.book([late, other])
    assert booked == other
    assert (told.action, told.in_force, told.overrides[0].rule) == ("coupon", "none", decisions.FORGONE)
    quiet = decision(user_id="ann", time=99, action="none", epoch=2)
    assert store.book([quiet]) == [quiet], "there is nothing to replace"
    assert store.decisions_of([("ann", 1), ("ann", 2), ("bob", 1)]) == {("bob", 1): other}
    assert store.verify_audit().entries == 1
    assert (store.budget().spent, store.budget().reserved) == (2 * MICROS, 3 * MICROS)
    anew = decision(user_id="ann", time=100, cost=1.0)
    assert store.reserve([Reservation(anew.action_id, 1.0)], cap=100.0, now=100) == [True]
    assert store.book([anew, late]) == [anew, anew], "who asks late gets what holds now"
    assert (store.budget().spent, store.budget().reserved) == (3 * MICROS, 0)


def test_what_is_gone_is_not_sent(store: Store, decision: Decide) -> None:
    made = [replace(one, channel="email") for one in store.book([decision(user_id=u) for u in ("ann", "bob")])]
    store.erase(["ann"], at=100)
    with store.writing() as connection:
        assert claim(connection, made, campaign="june", part="0", now=100) == {made[1].action_id}


@contextmanager
def meanwhile(statement: str, work: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Runs `work` in another thread the first time that somebody is about to execute a statement that begins so, and lets it go as far as it can: to
    its end, unless it has to wait."""
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    def hook(_conn: Any, _cursor: Any, text: str, *_more: Any) -> None:
        if text.startswith(statement) and not started:
            started.append(pool.submit(run))
            wait(started, timeout=0.5)

    started: list[Future[None]] = []
    with ThreadPoolExecutor(1) as pool:
        event.listen(Engine, "before_cursor_execute", hook)
        try:
            yield done
        finally:
            event.remove(Engine, "before_cursor_execute", hook)
    assert started, "nobody executed such a statement"


def write(store: Store, table: str, decision: Decide) -> None:
    """Add a row of ann's time before 100 to this table."""
    if table == "events":
        store.append_events([StoredEvent("e", "ann", "click", 5)], received_at=6)
    elif table == "history_base":
        history = merge(empty_history("ann"), [], [StoredEvent("b", "ann", "click", 1)])
        store.load_base([(history, ["b"])], dataset="d")
    elif table == "retention_decisions":
        store.book([decision(user_id="ann")])
    elif table == "served_slates":
        store.log_slates([slate("ann", time=5)])
    elif table == "kept_answers":
        store.claim_answers([Claim("k", body="b", token="t", user_id="ann", claimed_until=9, expires_at=99)], now=1)
    elif table == "shadow_slates":
        store.log_slates([slate("ann", time=5)])
        log_shadows(store, [ShadowSlate("ann-5", "ann", 5, "r2", ("i",), (0.5,), (0.5,))])
    else:
        booked = store.book([decision(user_id="ann")])
        with store.writing() as connection:
            claim(connection, [replace(booked[0], channel="email")], campaign="june", part="0", now=6)


@pytest.mark.parametrize(
    "table",
    [
        *("events", "history_base", "retention_decisions", "served_slates", "kept_answers"),
        *("shadow_slates", "deliveries"),
    ],
)
def test_an_erasure_misses_nothing_that_is_being_written(
    store: Store, store_url: str, decision: Decide, table: str
) -> None:
    with open_store(store_url, create=False) as other:
        with meanwhile(f"INSERT INTO {table}", lambda: other.erase(["ann"], at=100)) as erased:
            write(store, table, decision)
        erased.result()
    assert {name: count(store, name) for name in (one.name for one in OF_USERS)} == dict.fromkeys(
        (one.name for one in OF_USERS), 0
    )


@pytest.mark.parametrize("time", [99, 100])
def test_a_slate_that_comes_in_during_an_erasure_does_not_break_it(
    store: Store, store_url: str, decision: Decide, time: int
) -> None:
    (booked,) = store.book([decision(user_id="ann")])
    late = slate("ann", time=time, action_id=booked.action_id)
    with open_store(store_url, create=False) as other:
        with meanwhile("DELETE FROM retention_decisions", lambda: other.log_slates([late])) as logged:
            store.erase(["ann"], at=100)
        assert logged.result() == NotLogged(decisions=frozenset({late.decision_id} if time < 100 else ()))
    found = {} if time < 100 else {late.decision_id: replace(late, action_id=None)}
    assert store.slates_of([late.decision_id]) == found


def test_an_erasure_is_of_the_moment_when_all_is_deleted(store: Store) -> None:
    """Who asks while it waits for others, or goes on, has still seen what was there."""
    now = [100]

    def later() -> None:
        now[0] = 200

    with meanwhile("DELETE FROM kept_answers", later):
        assert store.erase(["ann"], clock=lambda: now[0]).at == 200
    assert store.append_events([StoredEvent("e", "ann", "click", 199)], received_at=200) == ["erased"]
    assert store.erase(["ann"], at=300).at == 300


def test_a_decision_that_is_gone_is_not_overridden_and_costs_nobody_else(store: Store, decision: Decide) -> None:
    ann, bob = store.book([decision(user_id=user) for user in ("ann", "bob")])
    store.erase(["ann"], at=100)
    left = store.override([ann.action_id, bob.action_id], by=Override("none", "consent", 101))
    assert left == [replace(bob, overrides=(Override("none", "consent", 101),))]


def test_an_error_does_not_tell_what_was_to_be_written(store: Store) -> None:
    with pytest.raises(IntegrityError) as caught, store.writing() as connection:
        decisions.log_slates(connection, [slate("ann", time=5, action_id="no such decision")])
    assert "ann" not in str(caught.value)


# consent


def test_who_was_erased_is_told_with_what_they_say_anew(store: Store) -> None:
    store.put_overlays([UserOverlay("ann", consent=False), UserOverlay("bob", consent=False)])
    store.erase(["ann"], at=9, pending=True)
    assert store.overlays(["ann", "bob", "eve"]) == {
        "ann": UserOverlay("ann", erased=True, pending=True),
        "bob": UserOverlay("bob", consent=False),
    }
    store.put_overlays([UserOverlay("ann", consent=True)])
    assert store.overlays(["ann"]) == {"ann": UserOverlay("ann", consent=True, erased=True, pending=True)}
    store.finish_erasures(["ann"])
    assert store.overlays(["ann"]) == {"ann": UserOverlay("ann", consent=True, erased=True)}
