"""What holds now counts from the next decision on: kill switch, stops, approvals, price; and the audit log keeps who changed it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from made_policy import DAY, MONDAY, NOW, policy, run, user

from clm_ray.decide.choice import replay
from clm_ray.decide.controls import (
    pace,
    read_controls,
    release_guardrail,
    request_approvals,
    resolve_approval,
    set_kill_switch,
    set_price,
    stop_actions,
)
from clm_ray.decide.explain import explain
from clm_ray.decide.record import effects
from clm_ray.errors import ConfigError, StoreError
from clm_ray.store.audit import verify
from clm_ray.store.contacts import put_channel_consents
from clm_ray.store.records import Override, RetentionDecision, UserOverlay
from clm_ray.store.store import Store

ALWAYS = policy(floor=0.0, uniform_share=0.0, temperature=1e-3)


def kinds(store: Store) -> list[str]:
    with store.reading() as connection:
        assert verify(connection).problems == ()
        rows = connection.exec_driver_sql("SELECT kind FROM audit_log ORDER BY seq").scalars().all()
    return [str(kind) for kind in rows]


def test_the_kill_switch_counts_from_the_next_request_on_and_stops_what_was_decided(store: Store) -> None:
    (before,) = run(store, [user("u")], config=ALWAYS)
    assert before.in_force == "coupon"
    set_kill_switch(store, on=True, by="ann", reason="wrong prices", now=NOW)
    (stopped, fresh) = run(store, [user("u"), user("v")], config=ALWAYS, now=NOW + 1)
    assert (stopped.action, stopped.in_force, stopped.overrides[0].rule) == ("coupon", "none", "kill_switch")
    assert (fresh.action, {mask.rule for mask in fresh.masks}) == ("none", {"kill_switch"})
    set_kill_switch(store, on=False, by="ann", reason="right again", now=NOW)
    assert run(store, [user("w")], config=ALWAYS, now=NOW + 2)[0].action == "coupon"
    assert replay(fresh, config=ALWAYS).probabilities == {"none": 1.0}
    assert [kind for kind in kinds(store) if kind.startswith("set_")] == ["set_kill_switch"] * 2


def test_who_is_erased_while_actions_are_withdrawn_costs_nobody_else(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {made.action for made in run(store, [user("u"), user("v")], config=ALWAYS)} == {"coupon"}
    set_kill_switch(store, on=True, by="ann", reason="wrong prices", now=NOW + 1)
    override = store.override

    def erased_meanwhile(action_ids: Sequence[str], *, by: Override) -> list[RetentionDecision]:
        store.erase(["u"], at=NOW + 2)
        return override(action_ids, by=by)

    monkeypatch.setattr(store, "override", erased_meanwhile)
    gone, stopped = run(store, [user("u"), user("v")], config=ALWAYS, now=NOW + 1)
    assert [(one.in_force, one.overrides[0].rule) for one in (gone, stopped)] == [
        ("none", "erasure"),
        ("none", "kill_switch"),
    ]
    assert list(store.decisions_of([("u", gone.epoch), ("v", gone.epoch)])) == [("v", gone.epoch)]


def test_a_stopped_action_falls_back_to_none_until_somebody_sets_it_free(store: Store) -> None:
    (before,) = run(store, [user("u")], config=ALWAYS)
    assert stop_actions(store, "complaints", action="coupon", reason="9 of 100 complained", now=NOW)
    assert not stop_actions(store, "complaints", action="coupon", reason="10 of 100 complained", now=NOW)
    (same, fresh) = run(store, [user("u"), user("v")], config=ALWAYS, now=NOW + 1)
    assert (before.in_force, same.in_force) == ("coupon", "none")
    assert ("coupon", "guardrail:complaints") in [(mask.action, mask.rule) for mask in fresh.masks]
    assert "slate" in fresh.feasible
    assert release_guardrail(store, "guardrail:complaints:coupon", by="ann", reason="looked at", now=NOW)
    assert not release_guardrail(store, "guardrail:complaints:coupon", by="ann", reason="looked at", now=NOW)
    assert run(store, [user("w")], config=ALWAYS, now=NOW + 2)[0].action == "coupon"
    with pytest.raises(ConfigError, match="is not a guardrail"):
        release_guardrail(store, "kill_switch", by="ann", reason="?", now=NOW)
    stop_actions(store, "sample_ratio", action="*", reason="holdout too small", now=NOW)
    assert run(store, [user("x")], config=ALWAYS, now=NOW + 3)[0].feasible == ("none",)
    assert replay(fresh, config=ALWAYS).probabilities == dict(zip(fresh.feasible, fresh.probabilities, strict=True))


def test_more_than_the_first_policy_waits_for_an_approval_and_falls_back_when_it_ends(store: Store) -> None:
    first = policy(budget=2.0, floor=0.0, uniform_share=0.0, temperature=1e-3)
    more = policy(budget=100.0, floor=0.0, uniform_share=0.0, temperature=1e-3)
    assert [made.action for made in run(store, [user("a"), user("b")], config=first)] == ["coupon", "slate"]
    (waiting,) = run(store, [user("c")], config=more)
    assert waiting.limits == {"budget": 2.0}
    assert "Of the first policy the budget still hold" in "\n".join(explain(waiting))
    (asked,) = read_controls(store, now=NOW).approvals
    assert (asked.kind, asked.subject, asked.status) == ("cap_increase", "budget=100", "pending")
    run(store, [user("d")], config=more)
    assert len(read_controls(store, now=NOW).approvals) == 1  # asked once
    done = resolve_approval(
        store, asked.approval_id, status="approved", by="ann", now=NOW, expires_at=NOW + DAY, note="agreed"
    )
    assert done.in_force(NOW + DAY - 1)
    assert not done.in_force(NOW + DAY)
    assert run(store, [user("e")], config=more, now=NOW + 1)[0].action == "coupon"
    (late,) = run(store, [user("f")], config=more, now=NOW + DAY)
    assert late.limits == {"budget": 2.0}
    (again,) = read_controls(store, now=NOW + DAY).approvals
    assert again.status == "pending"  # it is asked again
    for made in (waiting, late):
        same = replay(RetentionDecision.from_json(made.to_json()), config=more)
        assert (tuple(same.probabilities.values()), same.action) == (made.probabilities, made.action)
    assert {"baseline", "approval_requested", "approval_approved"} <= set(kinds(store))


def test_approvals_fail_closed(store: Store) -> None:
    (asked,) = request_approvals(store, [("new_action", "letter")], by="bob", now=NOW)
    resolve = {"by": "ann", "now": NOW, "note": ""}
    for expires_at in (None, NOW, NOW - 1):
        with pytest.raises(StoreError, match="expires"):
            resolve_approval(store, asked.approval_id, status="approved", expires_at=expires_at, **resolve)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="no such approval"):
        resolve_approval(store, "apr-0", status="approved", expires_at=NOW + 1, **resolve)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no such kind"):
        request_approvals(store, [("everything", "x")], by="bob", now=NOW)
    letter = policy(actions=[{"name": "letter", "approval": "always"}])
    for status, expires_at in (("refused", None), ("approved", NOW + 9), ("revoked", None)):
        resolve_approval(store, asked.approval_id, status=status, expires_at=expires_at, **resolve)  # type: ignore[arg-type]
        (made,) = run(store, [user(f"u-{status}")], config=letter, now=NOW + 1)
        assert ("letter" in made.feasible) == (status == "approved")
    with pytest.raises(StoreError, match="not in force"):
        resolve_approval(store, asked.approval_id, status="revoked", expires_at=None, **resolve)  # type: ignore[arg-type]


def test_a_gap_between_groups_is_let_be_while_an_approval_is_in_force(store: Store) -> None:
    stop_actions(store, "fairness_town", action="coupon", reason="a gap", now=NOW)
    (asked,) = request_approvals(store, [("group_gap", "column=town")], by="policy", now=NOW)
    assert run(store, [user("u")], config=ALWAYS)[0].action == "slate"
    resolve_approval(store, asked.approval_id, status="approved", by="ann", now=NOW, expires_at=NOW + DAY, note="")
    assert run(store, [user("v")], config=ALWAYS, now=NOW + 1)[0].action == "coupon"
    assert run(store, [user("w")], config=ALWAYS, now=NOW + DAY)[0].action == "slate"


def test_users_are_treated_for_what_it_brings(store: Store) -> None:
    dear, cheap = run(store, [user("u", spend=40.0), user("v", spend=4.0)], config=ALWAYS)
    assert (dear.action, cheap.action) == ("coupon", "slate")
    assert dear.estimates["coupon"].score == pytest.approx(0.3 * 0.25 * 40 - 2)
    assert (dear.worth, cheap.worth) == (10.0, 1.0)
    assert run(store, [user("w", spend=None)], config=ALWAYS)[0].worth == 10.0
    set_price(store, 0.75, by="ann", reason="short of money", now=NOW)
    (priced,) = run(store, [user("x", spend=40.0)], config=ALWAYS, now=NOW + 1)
    assert (priced.action, priced.price) == ("slate", 0.75)
    (own,) = run(store, [user("y", spend=40.0)], config=ALWAYS, now=NOW + 1, price=0.0)
    assert (own.action, own.price) == ("coupon", 0.0)
    text = "\n".join(explain(dear))
    assert "at_risk, because: silent for 20 days." in text
    assert (
        "coupon is expected to raise the chance of staying by +0.300 (95 % interval +0.100 to +0.500; a prior" in text
    )
    assert "Keeping this user is worth 10.00; a unit of budget costs 1.00 (price 0.00)." in text
    assert "It goes by email" in text


def test_the_price_follows_the_ledger(store: Store) -> None:
    config = policy(budget=100.0, budget_days=100.0, price_step=5.0, floor=0.0, uniform_share=0.0, temperature=1e-3)
    run(store, [user("a")], config=config)
    assert read_controls(store, now=NOW).price == 0.0
    run(store, [user(f"u{n}") for n in range(10)], config=config, now=NOW + 1)
    pace(store, read_controls(store, now=NOW), config=config, now=NOW + 30_000_000)
    assert read_controls(store, now=NOW).price == 0.0  # not yet
    pace(store, read_controls(store, now=NOW), config=config, now=NOW + DAY)
    # 20 spent since the budget's time began, 1 was planned: 1.9 tenths ahead.
    assert read_controls(store, now=NOW).price == pytest.approx(5.0 * 1.9)


def test_consent_of_a_channel_counts_at_once(store: Store) -> None:
    with store.writing() as connection:
        put_channel_consents(connection, "u", {"email": False}, now=NOW)
        put_channel_consents(connection, "v", {"email": True}, now=NOW)
    said_no, said_yes = run(store, [user("u"), user("v", consent=False)], config=ALWAYS)
    assert (said_no.action, said_yes.action) == ("slate", "coupon")
    assert [(mask.action, mask.rule) for mask in said_no.closed] == [("email", "consent")]
    store.put_overlays([UserOverlay("v", consent=True)])
    assert run(store, [user("v", consent=False)], config=ALWAYS, now=NOW + 1) == [said_yes]
    store.put_overlays([UserOverlay("v", consent=False)])  # a no in general is a no to every channel
    (withdrawn,) = run(store, [user("v", consent=False)], config=ALWAYS, now=NOW + 1)
    assert (withdrawn.in_force, withdrawn.overrides[0].rule) == ("none", "consent")


def test_a_consent_column_is_asked_instead_of_consent_in_general(store: Store) -> None:
    channels = {"email": {"consent_column": "mail_ok"}, "onsite": {"contact": False, "needs_consent": False}}
    config = policy(channels=channels, floor=0.0, uniform_share=0.0, temperature=1e-3)
    answers = {"yes": "coupon", "True": "coupon", "no": "slate", "": "slate"}
    inputs = [user(f"u{n}", columns={"mail_ok": value}) for n, value in enumerate(answers)]
    assert [made.action for made in run(store, inputs, config=config)] == list(answers.values())
    assert run(store, [user("x")], config=config)[0].action == "slate"
    assert run(store, [user("y", columns={"mail_ok": "yes"}, consent=False)], config=config)[0].action == "slate"


def test_caps_hold_from_epoch_to_epoch_and_quiet_hours_delay(store: Store) -> None:
    cap = {"windows": [{"days": 21, "most": 2}]}
    config = policy(cap=cap, floor=0.0, uniform_share=0.0, temperature=1e-3)
    made = [run(store, [user("u")], config=config, now=NOW + week * 7 * DAY)[0] for week in range(5)]
    assert [one.action for one in made] == ["coupon", "coupon", "slate", "coupon", "coupon"]
    assert {mask.action: mask.rule for mask in made[2].closed} == {"email": "caps"}
    (night,) = run(store, [user("v")], config=config, now=MONDAY + 23 * DAY // 24)
    assert night.deliver_from == MONDAY + DAY + 8 * DAY // 24
    (sunday,) = run(store, [user("w")], config=config, now=MONDAY + 6 * DAY + 23 * DAY // 24)
    assert (sunday.action, sunday.closed[0].rule) == ("slate", "quiet_hours")
    for one in [*made, night, sunday]:
        assert replay(RetentionDecision.from_json(one.to_json()), config=config).action == one.action


def test_every_step_says_what_it_did(store: Store) -> None:
    config = policy(
        budget=1.0,
        rules=[{"name": "kind", "kind": "ethical", "reason": "be kind", "require_actions": ["slate"]}],
    )
    (made,) = run(store, [user("u")], config=config)
    did = {step: (actions, channels) for step, actions, channels in effects(made)}
    assert did["budget"] == (("coupon",), ())
    assert did["required"] == (("none",), ())
    assert (made.feasible, made.propensity) == (("slate",), 1.0)
    assert list(did)[:4] == ["kill_switch", "guardrails", "consent", "holdout"]
    assert "none was excluded by rule rule:kind: slate is required: be kind." in explain(made)
    assert replay(RetentionDecision.from_json(made.to_json()), config=config).probabilities == {"slate": 1.0}


def test_a_holdout_user_gets_nothing_and_the_record_says_what_would_have_been(store: Store) -> None:
    (made,) = run(store, [user("u")], config=policy(holdout_share=1.0))
    assert (made.feasible, made.would_be) == (("none",), ("none", "coupon", "slate"))
    (other,) = run(store, [user("v")], config=policy(holdout_share=0.0))
    assert other.would_be == ()
