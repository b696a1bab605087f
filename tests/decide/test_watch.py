"""Guardrails stop by themselves what breaks a bound, uplifts are learned from what followed, and the review writes both down."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from made_policy import DAY, NOW, event, policy, run, user

from clm_ray.config.policy import PolicyConfig
from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.decide.controls import read_controls, release_guardrail
from clm_ray.decide.outcomes import follow
from clm_ray.decide.review import review, write_review
from clm_ray.decide.watch import learn_uplifts, watch, watch_if_due
from clm_ray.store.records import ServedSlate
from clm_ray.store.store import Store

ACTIVITY = frozenset({"purchase"})
DUE = NOW + 29 * DAY


def half(**more: object) -> PolicyConfig:
    """Half of the users get a coupon, a quarter are held out."""
    return policy(
        kind="stage",
        preferences={"at_risk": {"none": 1.0, "coupon": 1.0}},
        floor=0.0,
        uniform_share=0.0,
        holdout_share=0.25,
        guardrails={"min_decisions": 20, "min_holdout_p": None, **more},
    )


def test_an_outcome_lies_strictly_within_its_window(store: Store) -> None:
    config = half()
    made = run(store, [user(f"u{n}") for n in range(5)], config=config)
    times = [NOW, NOW + 1, NOW + 28 * DAY - 1, NOW + 28 * DAY, NOW + 3]
    store.append_events([event(f"u{n}", "purchase", t) for n, t in enumerate(times)], received_at=NOW)
    outcomes = [one.seen.outcome for one in follow(store, made, config=config, activity=ACTIVITY, now=DUE)]
    assert [outcome is not None and outcome.active for outcome in outcomes] == [False, True, True, False, True]
    early = follow(store, made, config=config, activity=ACTIVITY, now=NOW + 27 * DAY)
    assert all(one.seen.outcome is None for one in early)
    assert not any(one.seen.answer_due for one in follow(store, made, config=config, activity=ACTIVITY, now=NOW + DAY))


def test_complaints_stop_their_action_and_nothing_else(store: Store) -> None:
    config = half()
    made = run(store, [user(f"u{n}") for n in range(120)], config=config)
    angry = [one.user_id for one in made if one.action == "coupon"][:8]
    store.append_events([event(u, "complaint", NOW + DAY) for u in angry], received_at=NOW)
    calm = [one.user_id for one in made if one.action == "none"]
    store.append_events([event(u, "complaint", NOW + DAY) for u in calm], received_at=NOW)
    seen = watch(store, config=config, activity=ACTIVITY, now=NOW + 9 * DAY)
    assert seen.stopped == (("complaints", "coupon"),)
    assert list(read_controls(store, now=DUE).stops) == ["coupon"]
    (later,) = run(store, [user("new")], config=config, now=NOW + 9 * DAY)
    assert later.feasible == ("none", "slate") or later.holdout
    assert watch(store, config=config, activity=ACTIVITY, now=NOW + 9 * DAY).stopped == ()
    release_guardrail(store, "guardrail:complaints:coupon", by="ann", reason="seen", now=NOW + 9 * DAY)
    assert watch(store, config=config, activity=ACTIVITY, now=NOW + 10 * DAY).stopped == ()  # the same evidence


def test_it_is_looked_at_now_and_then_and_by_one_process(store: Store) -> None:
    config = half(every_minutes=60)
    assert watch_if_due(store, config=config, activity=ACTIVITY, now=NOW) is not None
    assert watch_if_due(store, config=config, activity=ACTIVITY, now=NOW + 60_000_000) is None
    assert watch_if_due(store, config=config, activity=ACTIVITY, now=NOW + 3_600_000_000) is not None


def test_uplifts_move_from_the_prior_to_what_was_observed(store: Store) -> None:
    config = half()
    made = run(store, [user(f"u{n}") for n in range(400)], config=config)
    # Everybody who got a coupon came back, of the others every second one.
    back = [one.user_id for n, one in enumerate(made) if one.action == "coupon" or n % 2]
    store.append_events([event(u, "purchase", NOW + DAY) for u in back], received_at=NOW)
    followed = follow(store, made, config=config, activity=ACTIVITY, now=DUE)
    learned = learn_uplifts(store, followed, config=config, now=DUE)
    coupon = learned["coupon"]["at_risk"]
    assert 0.3 < coupon.low < 0.5 < coupon.high < 0.62
    assert coupon.treated > 100
    assert read_controls(store, now=DUE).learned == learned
    (later,) = run(store, [user("next")], config=config, now=DUE)
    assert later.estimates["coupon"].mean == coupon.mean


def shop(tmp_path: Path) -> tuple[Path, Recipe]:
    recipe = recipe_from(
        {
            "name": "shop",
            "source": {"kind": "files", "events": {"paths": ["unused.parquet"]}},
            "event_types": {"purchase": {"roles": ["positive", "context", "activity"], "value": "amount"}},
            "policy": half(min_decisions=5).model_dump(mode="json")
            | {"fairness": {"columns": ["town"], "min_users": 10, "max_action_gap": 0.2}},
            "privacy": {"min_group": 10},
        }
    )
    table = pa.table(
        {"item_id": ["", "i1", "i2"], "categories": pa.array([[], ["bread"], ["wine"]], pa.list_(pa.string()))}
    )
    pq.write_table(table, tmp_path / "items.parquet")
    return tmp_path, recipe


def test_the_review_shows_groups_and_stops_what_treats_them_too_differently(store: Store, tmp_path: Path) -> None:
    release, recipe = shop(tmp_path)
    rich = [user(f"r{n}", columns={"town": "rich"}) for n in range(60)]
    poor = [user(f"p{n}", columns={"town": "poor"}, consent=False) for n in range(60)]
    few = [user(f"f{n}", columns={"town": "tiny"}) for n in range(3)]
    run(store, [*rich, *poor, *few], config=recipe.policy)
    slates = [
        ServedSlate(f"d-{u.user_id}", u.user_id, NOW + 1, "r1", ("i1" if u in rich else "i2",), (0.5,))
        for u in [*rich, *poor]
    ]
    store.log_slates(slates)
    looked = review(store, release=release, recipe=recipe, now=NOW + 2 * DAY, change=False)
    assert looked.stopped == ()
    found = review(store, release=release, recipe=recipe, now=NOW + 2 * DAY, change=True)
    assert ("fairness_town", "coupon") in found.stopped
    (gap,) = [one for one in found.gaps if one.action == "coupon" and one.metric == "action_rate"]
    assert (gap.low_group, gap.high_group) == ("poor", "rich")
    assert gap.difference > 0.4
    assert found.open_approvals[0].startswith("group_gap column=town")
    assert {e.group: round(e.distance, 2) for e in found.exposures} == {"poor": 0.5, "rich": 0.5}
    page = write_review(found, tmp_path / "reviews")
    text = page.read_text(encoding="utf-8")
    assert "fairness_town coupon: action_rate differs by" in text
    assert "| town | tiny | action_rate | coupon | at_risk | " in text
    assert "hidden" in text
    assert json.loads(page.with_suffix(".json").read_text())["decisions"] == 123
