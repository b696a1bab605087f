"""Answers kept under a request's key: one claim at a time, one answer, no second slate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from clm_ray.store.answers import Claim, Kept
from clm_ray.store.records import NotLogged, ServedSlate
from clm_ray.store.store import Store, open_store

NOW = 1_000


def claim(token: str, *, key: str = "k", body: str = "b", until: int = NOW + 10, expires: int = NOW + 100) -> Claim:
    return Claim(key=key, body=body, token=token, user_id="u", claimed_until=until, expires_at=expires)


def slate(decision_id: str) -> ServedSlate:
    return ServedSlate(decision_id, "u", NOW, "r1", ("i1",), (0.5,))


def status(store: Store, one: Claim, *, now: int = NOW) -> str:
    return store.claim_answers([one], now=now)[0].status


def test_one_caller_answers_and_the_others_get_what_was_answered(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: status(store, claim(f"t{n}")), range(8)))
    assert sorted(found) == ["busy"] * 7 + ["mine"]
    winner = f"t{found.index('mine')}"
    assert store.log_slates([slate("d1")], kept=[Kept("k", winner, "the answer", "d1")]) == NotLogged()
    (again,) = store.claim_answers([claim("later")], now=NOW)
    assert (again.status, again.answer) == ("kept", "the answer")
    assert status(store, claim("t", body="another")) == "other"
    assert set(store.slates_of(["d1"])) == {"d1"}


def test_a_claim_whose_holder_died_is_taken_over_and_the_dead_one_logs_nothing(store: Store) -> None:
    assert status(store, claim("first")) == "mine"
    assert status(store, claim("second", until=NOW + 50), now=NOW + 9) == "busy"
    assert status(store, claim("second", until=NOW + 50), now=NOW + 10) == "mine"
    assert store.log_slates([slate("d1"), slate("d2")], kept=[Kept("k", "first", "late", "d1")]) == NotLogged(
        frozenset({"k"}), frozenset({"d1"})
    )
    assert set(store.slates_of(["d1", "d2"])) == {"d2"}, "a slate of somebody else in the batch is logged"
    assert store.log_slates([slate("d3")], kept=[Kept("k", "second", "in time", "d3")]) == NotLogged()


def test_a_request_that_came_to_nothing_gives_its_key_back(store: Store) -> None:
    assert status(store, claim("first")) == "mine"
    store.release_answers(["first"])
    assert status(store, claim("second", body="another")) == "mine"
    store.log_slates([], kept=[Kept("k", "second", "answer", None)])
    store.release_answers(["second"])
    assert status(store, claim("third", body="another")) == "kept", "an answer is not given back"


def test_what_is_kept_can_be_read_without_a_claim(store: Store) -> None:
    assert status(store, claim("first")) == "mine"
    assert status(store, claim("second", key="k2")) == "mine"
    assert store.kept_answers(["k", "k2"], body="b", now=NOW) == {}, "nobody has answered yet"
    store.log_slates([], kept=[Kept("k", "first", "answer", None)])
    assert store.kept_answers(["k", "k2", "k3"], body="b", now=NOW + 99) == {"k": "answer"}
    assert (
        store.kept_answers(["k"], body="another", now=NOW) == store.kept_answers(["k"], body="b", now=NOW + 100) == {}
    )


def test_answers_expire_and_go_with_their_user(store: Store) -> None:
    assert status(store, claim("first")) == "mine"
    store.log_slates([], kept=[Kept("k", "first", "answer", None)])
    assert status(store, claim("second"), now=NOW + 99) == "kept"
    assert status(store, claim("second", until=NOW + 200, expires=NOW + 300), now=NOW + 100) == "mine"
    assert store.erase(["u"], at=9).removed["kept_answers"] == 1
    assert status(store, claim("third")) == "mine"


@contextmanager
def before(works: Mapping[str, Callable[[], object]]) -> Iterator[None]:
    """Does a piece of work whenever somebody is about to execute a statement that begins like its name; not for the statements of the work itself."""
    working = False

    def hook(_conn: Any, _cursor: Any, text: str, *_more: Any) -> None:
        nonlocal working
        for begin, work in works.items():
            if text.startswith(begin) and not working:
                working = True
                work()
                working = False

    event.listen(Engine, "before_cursor_execute", hook)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", hook)


READS, CLAIMS = "SELECT kept_answers.key", "INSERT INTO kept_answers"


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_key_that_is_given_back_before_we_read_it_is_claimed_again(store: Store, store_url: str) -> None:
    """On SQLite nobody else writes in between."""
    with open_store(store_url, create=False) as other:
        assert status(other, claim("first")) == "mine"
        with before({READS: lambda: other.release_answers(["first"])}):
            found = store.claim_answers([claim("second"), claim("x", key="another")], now=NOW)
        assert [one.status for one in found] == ["mine", "mine"]
        assert status(other, claim("third")) == "busy"


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_key_that_comes_and_goes_time_after_time_is_busy(store: Store, store_url: str) -> None:
    with open_store(store_url, create=False) as other:
        comes = before({CLAIMS: lambda: status(other, claim("first")), READS: lambda: other.release_answers(["first"])})
        with comes:
            assert status(store, claim("second")) == "busy"
        assert status(store, claim("second")) == "mine"
