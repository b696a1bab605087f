"""What a person has to approve before it takes effect, and what holds until then.

The first policy that decides on a store is the baseline. A later one that adds an action, raises the budget or loosens a cap is asking for
more: until an approval is in force the action is not taken and the baseline's budget or cap holds. An approval expires; then, too, the
baseline holds again. Tightening needs nobody. Whatever cannot be read, is unknown or has expired is not approved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from clm_ray.config.channels import CapConfig
from clm_ray.config.policy import PolicyConfig

ApprovalKind = Literal["new_action", "cap_increase", "group_gap"]
KINDS: tuple[ApprovalKind, ...] = ("new_action", "cap_increase", "group_gap")
TOTAL = "total"
"""Name of the caps over all channels."""
Asked = tuple[ApprovalKind, str]
"""What is asked for: kind and subject."""


@dataclass(frozen=True)
class Standing:
    """config: the policy as far as it may take effect. limits: what of the baseline holds instead of the recipe's own (budget, caps by
    name). unapproved: action → why it may not be taken. asked: the approvals that are missing."""

    config: PolicyConfig
    limits: Mapping[str, Any]
    unapproved: Mapping[str, str]
    asked: tuple[Asked, ...]


def baseline_of(config: PolicyConfig) -> dict[str, Any]:
    """What a policy allows, as plain data: its actions, its budget, its caps."""
    caps: dict[str, Any] = {
        name: {"contact": channel.contact, "cap": channel.cap.model_dump(mode="json")}
        for name, channel in config.channels.items()
    }
    caps[TOTAL] = {"contact": True, "cap": config.cap.model_dump(mode="json")}
    return {"actions": sorted(action.name for action in config.actions), "budget": config.budget, "caps": caps}


def standing(config: PolicyConfig, *, baseline: Mapping[str, Any], approved: Collection[Asked]) -> Standing:
    """What of `config` may take effect. `approved`: the approvals in force at this moment."""
    asked: list[Asked] = []
    unapproved: dict[str, str] = {}
    for action in config.actions:
        new = action.approval == "new" and action.name not in baseline["actions"]
        if (new or action.approval == "always") and ("new_action", action.name) not in approved:
            asked.append(("new_action", action.name))
            unapproved[action.name] = "no approval for it is in force"
    limits: dict[str, Any] = {}
    if config.budget > baseline["budget"] and (subject := budget_subject(config.budget)) not in approved:
        asked.append(subject)
        limits["budget"] = baseline["budget"]
    own = baseline_of(config)["caps"]
    for name, before in baseline["caps"].items():
        if name in own and _looser(own[name], before) and (subject := cap_subject(name, own[name])) not in approved:
            asked.append(subject)
            limits[name] = before
    return Standing(with_limits(config, limits), limits, unapproved, tuple(asked))


def with_limits(config: PolicyConfig, limits: Mapping[str, Any]) -> PolicyConfig:
    """`config` with the baseline's budget and caps where `limits` names them."""
    if not limits:
        return config
    changed: dict[str, Any] = {}
    if "budget" in limits:
        changed["budget"] = limits["budget"]
    if TOTAL in limits:
        changed["cap"] = CapConfig.model_validate(limits[TOTAL]["cap"])
    channels = dict(config.channels)
    for name, before in limits.items():
        if name in channels:
            update = {"contact": before["contact"], "cap": CapConfig.model_validate(before["cap"])}
            channels[name] = channels[name].model_copy(update=update)
    return config.model_copy(update={**changed, "channels": channels})


def budget_subject(budget: float) -> Asked:
    """The approval that a budget of this size needs."""
    return "cap_increase", f"budget={budget:g}"


def cap_subject(name: str, unit: Mapping[str, Any]) -> Asked:
    """The approval that these caps of a channel need; other caps need another one."""
    digest = hashlib.sha256(orjson.dumps(unit, option=orjson.OPT_SORT_KEYS)).hexdigest()[:8]
    return "cap_increase", f"caps.{name}={digest}"


def _looser(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether `new` lets through anything that `old` does not, as far as windows can be compared one by one."""
    if not old["contact"]:
        return False
    if not new["contact"]:
        return True
    mine, before = CapConfig.model_validate(new["cap"]), CapConfig.model_validate(old["cap"])
    if mine.min_gap_hours < before.min_gap_hours:
        return True
    return not all(
        any(window.days >= known.days and window.most <= known.most for window in mine.windows)
        for known in before.windows
    )
