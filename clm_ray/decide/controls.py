"""What holds at this moment beside the release: kill switch, stopped actions, approvals, price of budget, learned uplifts.

All of it is in the store and read at every decision, so that a change counts from the next request on, on every replica. Whoever changes
something says who they are and why, and the audit log keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clm_ray.config.policy import PolicyConfig, Stage
from clm_ray.errors import ConfigError
from clm_ray.policy.approval import KINDS, Asked, Standing, baseline_of, standing
from clm_ray.policy.fairness import PREFIX, gap_subject
from clm_ray.policy.guardrails import EVERYTHING
from clm_ray.policy.knapsack import Pace, paced
from clm_ray.policy.masks import Stop
from clm_ray.policy.uplift import Estimate
from clm_ray.schema import DAY_US
from clm_ray.store import approvals as asked_for
from clm_ray.store.approvals import Approval
from clm_ray.store.audit import AuditEntry
from clm_ray.store.audit import append as append_audit
from clm_ray.store.controls import Control, controls, drop_control, put_control, swap_control
from clm_ray.store.ledger import MICROS
from clm_ray.store.store import Store

KILL_SWITCH = "kill_switch"
GUARDRAIL = "guardrail:"
"""A stop has the key guardrail:NAME:ACTION; ACTION is * for all of them."""
RELEASED = "released:"
"""What a person released has the key released:NAME:ACTION; it is not stopped again while the evidence is the same."""
_BASELINE = "baseline"
_PACE = "pace"
_UPLIFT = "uplift"
PACE_EVERY_US = 60_000_000
"""The price moves at most this often, µs."""
_POLICY = "policy"
_REASONS = {
    "new_action": "the policy has an action that the first policy of this store did not have, or that always asks",
    "cap_increase": "the policy would spend or contact more than the first policy of this store",
    "group_gap": "groups of users are treated too differently",
}


@dataclass(frozen=True)
class Controls:
    """killed: why everything is off, None where it is not. stops: action (or *) → the guardrail that stopped it. learned: action → stage →
    uplift. approvals: all of them."""

    killed: str | None
    stops: Mapping[str, Stop]
    pace: Control | None
    learned: Mapping[str, Mapping[Stage, Estimate]]
    baseline: Mapping[str, Any] | None
    approvals: tuple[Approval, ...]
    settings: Mapping[str, Control]

    @property
    def price(self) -> float:
        """Lagrangian price of one unit of budget."""
        return 0.0 if self.pace is None else float(self.pace.value["price"])

    def approved(self, now: int) -> frozenset[tuple[str, str]]:
        """Kind and subject of what is approved at `now` (µs)."""
        return frozenset((one.kind, one.subject) for one in self.approvals if one.in_force(now))

    def stopped(self, action: str) -> Stop | None:
        """What stopped this action."""
        return self.stops.get(EVERYTHING) or self.stops.get(action)


def read_controls(store: Store, *, now: int) -> Controls:
    """What holds at `now` (µs). A gap between groups stops nothing while an approval lets it be.

    Raises StoreError where it cannot be read: then nothing may be decided."""
    with store.reading() as connection:
        found, asked = controls(connection), asked_for.approvals(connection)
    kill = found.get(KILL_SWITCH)
    approved = {(one.kind, one.subject) for one in asked if one.in_force(now)}
    stops: dict[str, Stop] = {}
    for key, control in sorted(found.items()):
        if key.startswith(GUARDRAIL):
            name, _, action = key.removeprefix(GUARDRAIL).partition(":")
            if not (name.startswith(PREFIX) and gap_subject(name) in approved):
                stops.setdefault(action, Stop(GUARDRAIL + name, control.reason))
    learned = found.get(_UPLIFT)
    return Controls(
        killed=kill.reason if kill is not None and kill.value else None,
        stops=stops,
        pace=found.get(_PACE),
        learned={} if learned is None else _estimates(learned.value),
        baseline=found[_BASELINE].value if _BASELINE in found else None,
        approvals=tuple(asked),
        settings=found,
    )


def standing_of(store: Store, state: Controls, *, config: PolicyConfig, now: int) -> Standing:
    """What of `config` may take effect now. The first policy of a store becomes its baseline; what lacks an approval is asked for, once."""
    baseline = state.baseline
    if baseline is None:
        baseline = _adopt(store, config, now=now)
    result = standing(config, baseline=baseline, approved=_typed(state.approved(now)))
    known = {(one.kind, one.subject) for one in state.approvals if one.status != "approved" or one.in_force(now)}
    missing = [one for one in result.asked if one not in known]
    if missing:
        request_approvals(store, missing, by=_POLICY, now=now)
    return result


def _typed(approved: frozenset[tuple[str, str]]) -> frozenset[Asked]:
    return frozenset((kind, subject) for kind in KINDS for of, subject in approved if of == kind)


def _adopt(store: Store, config: PolicyConfig, *, now: int) -> Mapping[str, Any]:
    mine = Control(_BASELINE, baseline_of(config), now, _POLICY, f"policy {config.version} is the first of this store")
    with store.writing() as connection:
        if put_control(connection, mine, once=True):
            append_audit(connection, [_entry("baseline", mine)])
        value: Mapping[str, Any] = controls(connection)[_BASELINE].value
        return value


def request_approvals(
    store: Store, asked: Sequence[tuple[str, str]], *, by: str, now: int, reason: str | None = None
) -> list[Approval]:
    """Ask for approvals; what is asked already stays as it is. Raises ConfigError for a kind that there is not."""
    for kind, _ in asked:
        if kind not in KINDS:
            raise ConfigError("no such kind of approval", field="kind", value=kind, fix=f"one of {', '.join(KINDS)}")
    rows = [(kind, subject, reason or _REASONS[kind]) for kind, subject in asked]
    with store.writing() as connection:
        new = asked_for.request(connection, rows, by=by, now=now)
        if new:
            append_audit(connection, [AuditEntry("approval_requested", now, asdict(one)) for one in new])
    return new


def resolve_approval(
    store: Store, approval_id: str, *, status: asked_for.Status, by: str, now: int, expires_at: int | None, note: str
) -> Approval:
    """Approve (until `expires_at`), refuse or revoke. Raises StoreError: see `store.approvals.resolve`."""
    with store.writing() as connection:
        done = asked_for.resolve(
            connection, approval_id, status=status, by=by, now=now, expires_at=expires_at, note=note
        )
        append_audit(connection, [AuditEntry(f"approval_{status}", now, asdict(done))])
    return done


def set_kill_switch(store: Store, *, on: bool, by: str, reason: str, now: int) -> None:
    """Stop every action, or let them go on, from the next request."""
    _put(store, Control(KILL_SWITCH, on, now, by, reason))


def stop_actions(store: Store, guardrail: str, *, action: str, reason: str, now: int) -> bool:
    """A guardrail stops an action (or *), until a person sets it free. Returns False where it is stopped already."""
    control = Control(f"{GUARDRAIL}{guardrail}:{action}", True, now, _POLICY, reason)
    with store.writing() as connection:
        written = put_control(connection, control, once=True)
        if written:
            append_audit(connection, [_entry("guardrail_stopped", control)])
    return written


def release_guardrail(store: Store, key: str, *, by: str, reason: str, now: int) -> bool:
    """Release what a guardrail stopped; `key` as `guardrail:NAME:ACTION`. Returns False where nothing was stopped by it.

    It is not stopped again by the same guardrail for as long as the guardrails look back."""
    if not key.startswith(GUARDRAIL):
        raise ConfigError("is not a guardrail's", field="key", value=key, fix="guardrail:NAME:ACTION")
    with store.writing() as connection:
        dropped = drop_control(connection, key)
        if dropped:
            put_control(connection, Control(RELEASED + key.removeprefix(GUARDRAIL), True, now, by, reason))
            append_audit(connection, [_entry("guardrail_released", Control(key, False, now, by, reason))])
    return dropped


def put_learned(
    store: Store, learned: Mapping[str, Mapping[Stage, Estimate]], *, by: str, reason: str, now: int
) -> None:
    """Replace the learned uplifts."""
    value = {action: {stage: asdict(one) for stage, one in stages.items()} for action, stages in learned.items()}
    _put(store, Control(_UPLIFT, value, now, by, reason))


def set_price(store: Store, price: float, *, by: str, reason: str, now: int) -> None:
    """Set the price of budget from which pacing goes on."""
    with store.reading() as connection:
        before = controls(connection).get(_PACE)
    spent = store.budget().spent / MICROS
    since = now if before is None else int(before.value["since"])
    _put(store, Control(_PACE, asdict(Pace(price, since, now, spent)), now, by, reason))


def pace(store: Store, state: Controls, *, config: PolicyConfig, now: int) -> None:
    """Move the price of budget, if it has not moved for a while. The ledger says what was spent, so nothing is missed after a crash."""
    before = state.pace
    if before is not None and now - int(before.value["at"]) < PACE_EVERY_US:
        return
    spent = store.budget().spent / MICROS
    if before is None:
        start = Pace(0.0, now, now, spent)
        first = Control(_PACE, asdict(start), now, _POLICY, "the budget's time begins")
        with store.writing() as connection:
            put_control(connection, first, once=True)
        return
    moved = paced(
        Pace(**before.value),
        now=now,
        spent=spent,
        cap=config.budget,
        budget_us=round(config.budget_days * DAY_US),
        step=config.price_step,
        max_price=config.max_price,
    )
    # Where another replica moved it in the meantime, its step counts: both had read the same ledger.
    with store.writing() as connection:
        swap_control(connection, before, Control(_PACE, asdict(moved), now, _POLICY, "paced"))


def _put(store: Store, control: Control) -> None:
    with store.writing() as connection:
        put_control(connection, control)
        append_audit(connection, [_entry(f"set_{control.key}", control)])


def _entry(kind: str, control: Control) -> AuditEntry:
    return AuditEntry(kind, control.changed_at, asdict(control))


def _estimates(raw: Mapping[str, Mapping[Stage, Mapping[str, Any]]]) -> dict[str, dict[Stage, Estimate]]:
    return {action: {stage: Estimate(**one) for stage, one in stages.items()} for action, stages in raw.items()}
