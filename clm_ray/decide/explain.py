"""A decision in words."""

from __future__ import annotations

from datetime import UTC, datetime

from clm_ray.store.records import RetentionDecision


def explain(decision: RetentionDecision) -> list[str]:
    """Sentences that say what was decided and why, from the record alone: the same for a new decision and a stored one."""
    odds = zip(decision.feasible, decision.probabilities, strict=True)
    lines = [
        f"Life-cycle stage at the start of the epoch ({_day(decision.epoch_start)}): {decision.stage}.",
        *(f"{mask.action} was excluded by rule {mask.rule}: {mask.reason}." for mask in decision.masks),
        f"Policy {decision.policy_version} chose among " + ", ".join(f"{name} {p:.1%}" for name, p in odds) + ".",
        f"{decision.action} was drawn, which had probability {decision.propensity:.1%}.",
    ]
    if decision.cost > 0:
        lines.append(f"At most {decision.cost:g} of the budget is set aside for it.")
    lines += [f"{o.rule} replaced it with {o.action} on {_day(o.time)}." for o in decision.overrides]
    lines.append(f"The outcome is due on {_day(decision.outcome_due)}.")
    return lines


def _day(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1_000_000, UTC).date().isoformat()
