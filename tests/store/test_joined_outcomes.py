"""Slates joined to the events that answered them; and the log of a shadow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clm_ray.config.source import EventTypeConfig
from clm_ray.store.outcomes import Answer, Meaning, Outcome, join, outcomes, shown
from clm_ray.store.records import ServedSlate, ShadowSlate, StoredEvent
from clm_ray.store.shadow import log_shadows, shadows_of
from clm_ray.store.store import Store

HOUR = 3_600_000_000
MEANING = Meaning.of(
    {
        "click": EventTypeConfig.model_validate({"roles": ["positive"]}),
        "buy": EventTypeConfig.model_validate({"roles": ["positive"], "value": "amount"}),
        "rate": EventTypeConfig.model_validate({"roles": [], "value": "rating", "positive_from": 4}),
        "look": EventTypeConfig.model_validate({"roles": ["context"]}),
    }
)


def slate(
    name: str, *, user: str = "u", time: int = 0, items: tuple[str, ...] = ("a", "b"), arm: str = ""
) -> ServedSlate:
    return ServedSlate(name, user, time, "r1", items, (0.5, 0.25)[: len(items)], arm=arm)


def answer(name: str, item: str, kind: str = "click", *, time: int = 1, value: float | None = None) -> Answer:
    return Answer(name, time, item, kind, value)


def joined(slates: Sequence[ServedSlate], *answers: Answer) -> list[Outcome]:
    return join(slates, answers, meaning=MEANING, window_us=HOUR)


def test_what_the_recipe_calls_positive_and_money() -> None:
    assert dict(MEANING.positive) == {"click": None, "buy": None, "rate": 4}
    assert MEANING.amounts == {"buy"}


def test_an_answer_counts_for_its_slate_and_item_alone() -> None:
    one, two = joined([slate("s1"), slate("s2")], answer("s1", "b"), answer("s2", "x"), answer("s3", "a"))
    assert one.taken == (False, True)
    assert two.taken == (False, False)


@pytest.mark.parametrize(("time", "counts"), [(-1, False), (0, True), (HOUR - 1, True), (HOUR, False)])
def test_the_window_is_half_open(time: int, counts: bool) -> None:
    (one,) = joined([slate("s")], answer("s", "a", "buy", time=time, value=3.0))
    assert one.taken == (counts, False)
    assert one.revenue == (3.0 if counts else 0.0)


def test_a_rating_counts_from_its_threshold_and_a_look_never() -> None:
    (one,) = joined(
        [slate("s", items=("a", "b", "c"))],
        answer("s", "a", "rate", value=4),
        answer("s", "b", "rate", value=3),
        answer("s", "c", "look"),
    )
    assert one.taken == (True, False, False)


def test_revenue_is_what_was_spent_on_shown_items() -> None:
    buys = [answer("s", "a", "buy", value=2.0), answer("s", "a", "buy", value=3.5), answer("s", "x", "buy", value=9.0)]
    (one,) = joined([slate("s")], *buys, answer("s", "b"))
    assert one.revenue == 5.5
    assert one.taken == (True, True)


@given(
    st.lists(st.tuples(st.sampled_from("st"), st.sampled_from("abx"), st.sampled_from(["click", "look", "buy"]))),
    st.randoms(),
)
def test_the_order_of_the_answers_does_not_matter(made: list[tuple[str, str, str]], random: object) -> None:
    slates = [slate("s"), slate("t")]
    answers = [answer(name, item, kind, value=1.0) for name, item, kind in made]
    shuffled = list(answers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert joined(slates, *answers) == joined(slates, *shuffled)


def test_arrays_keep_slates_items_and_unscored_ones_apart() -> None:
    unscored = ServedSlate("s2", "v", 0, "r1", ("c",), ())
    found = shown(joined([slate("s1"), unscored], answer("s1", "b"), answer("s2", "c", "buy", value=2.0)))
    assert found.slate_N.tolist() == [0, 0, 1]
    assert found.label_N.tolist() == [0, 1, 1]
    assert found.probability_N[:2].tolist() == [0.5, 0.25]
    assert math.isnan(found.probability_N[2])
    assert (found.user_S.tolist(), found.revenue_S.tolist()) == (["u", "v"], [0.0, 2.0])


def test_the_store_gives_the_slates_of_a_time_newest_first_with_their_answers(store: Store) -> None:
    store.log_slates([slate(f"s{n}", user=f"u{n % 3}", time=n * HOUR, arm="challenger") for n in range(6)])
    events = [
        StoredEvent("e1", "u2", "click", 2 * HOUR + 5, item_id="b", decision_id="s2"),
        StoredEvent("e2", "u1", "buy", 4 * HOUR + HOUR, item_id="a", decision_id="s4", value=1.0),
        StoredEvent("e3", "u0", "buy", 3 * HOUR + 9, item_id="a", decision_id="s3", value=7.0),
        StoredEvent("e4", "u0", "click", 3 * HOUR + 9, item_id="b"),
    ]
    store.append_events(events, received_at=9 * HOUR)
    found = list(outcomes(store, since=2 * HOUR, until=5 * HOUR, meaning=MEANING, window_us=HOUR))
    assert [one.slate.decision_id for one in found] == ["s4", "s3", "s2"]
    assert [one.taken for one in found] == [(False, False), (True, False), (False, True)]
    assert [one.revenue for one in found] == [0.0, 7.0, 0.0]
    assert {one.slate.arm for one in found} == {"challenger"}
    newest = list(outcomes(store, since=0, until=9 * HOUR, meaning=MEANING, window_us=HOUR, most=2))
    assert [one.slate.decision_id for one in newest] == ["s5", "s4"]


def test_pages_neither_lose_nor_repeat_slates_of_the_same_moment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clm_ray.store.outcomes._SLATES_AT_ONCE", 2)
    store.log_slates([slate(f"s{n}", time=7) for n in range(5)])
    found = [one.slate.decision_id for one in outcomes(store, since=0, until=8, meaning=MEANING, window_us=HOUR)]
    assert sorted(found) == [f"s{n}" for n in range(5)]


def test_a_shadow_is_logged_once_per_release_and_goes_with_its_user(store: Store) -> None:
    def shadow(name: str, release: str) -> ShadowSlate:
        return ShadowSlate(name, "u", 0, release, ("b", "c"), (0.5, 0.5), (0.125, None))

    store.log_slates([slate("s1"), slate("s2")])
    batch = [shadow("s1", "r2"), shadow("s1", "r3"), shadow("nobody was shown this", "r2")]
    assert log_shadows(store, batch) == 2
    assert log_shadows(store, batch) == 0
    assert shadows_of(store, ["s1", "s2"], release="r2") == {"s1": shadow("s1", "r2")}
    store.erase(["u"], at=0)
    assert shadows_of(store, ["s1"], release="r2") == {}
    assert log_shadows(store, [shadow("s1", "r2")]) == 0, "nothing of an erased user comes back"
