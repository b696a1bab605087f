"""A decision in words."""

from __future__ import annotations

from datetime import UTC, datetime

from clm_ray.config.policy import NO_ACTION
from clm_ray.policy.uplift import Estimate
from clm_ray.store.records import RetentionDecision


def explain(decision: RetentionDecision) -> list[str]:
    """Sentences that say what was decided and why, from the record alone: the same for a new decision and a stored one."""
    odds = zip(decision.feasible, decision.probabilities, strict=True)
    why = f", because: {decision.why}" if decision.why else ""
    lines = [
        f"Life-cycle stage at the start of the epoch ({_day(decision.epoch_start)}): {decision.stage}{why}.",
        *(f"{mask.action} was closed by rule {mask.rule}: {mask.reason}." for mask in decision.closed),
        *(f"{mask.action} was excluded by rule {mask.rule}: {mask.reason}." for mask in decision.masks),
        *_estimates(decision),
        f"Policy {decision.policy_version} chose among " + ", ".join(f"{name} {p:.1%}" for name, p in odds) + ".",
        f"{decision.action} was drawn, which had probability {decision.propensity:.1%}.",
    ]
    if decision.channel is not None:
        lines.append(f"It goes by {decision.channel}, from {_moment(decision.deliver_from)} on.")
    if decision.cost > 0:
        lines.append(f"At most {decision.cost:g} of the budget is set aside for it.")
    if decision.limits:
        held = ", ".join("the budget" if name == "budget" else f"the caps of {name}" for name in decision.limits)
        lines.append(f"Of the first policy {held} still hold, because no approval for more is in force.")
    lines += [f"{o.rule} replaced it with {o.action} on {_day(o.time)}." for o in decision.overrides]
    lines.append(f"The outcome is due on {_day(decision.outcome_due)}.")
    return lines


def _estimates(decision: RetentionDecision) -> list[str]:
    """What each action but `none` was expected to bring."""
    acting = {name: one for name, one in decision.estimates.items() if name != NO_ACTION}
    if not acting:
        return []
    lines = [
        f"Keeping this user is worth {decision.worth:.2f}; a unit of budget costs {1 + decision.price:.2f} (price {decision.price:.2f})."
    ]
    for name, one in acting.items():
        source = Estimate(one.mean, one.low, one.high, one.treated, one.control).source
        lines.append(
            f"{name} is expected to raise the chance of staying by {one.mean:+.3f} (95 % interval {one.low:+.3f} to {one.high:+.3f}; "
            f"{source}), which scores {one.score:+.2f} after its cost."
        )
    return lines


def _day(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1_000_000, UTC).date().isoformat()


def _moment(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1_000_000, UTC).isoformat(timespec="minutes").replace("+00:00", "Z")
