"""Rules of the recipe, applied: who they are about, which actions and which items they exclude or require.

Conditions are data (`config.rules.Condition`), answered here by plain comparisons; nothing is evaluated as code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from clm_ray.config.policy import PolicyConfig, Stage
from clm_ray.config.rules import Condition, ItemSelector, RuleConfig
from clm_ray.errors import ConfigError

PREFIX = "rule:"
"""Masks of rules carry this before the rule's name."""


@dataclass(frozen=True)
class Known:
    """What a condition may ask of a user. columns: of the user table; features: as of the start of the epoch. A missing key is a missing value."""

    stage: Stage
    columns: Mapping[str, str | float] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)


def holds(condition: Condition | None, known: Known) -> bool:
    """Whether the condition holds for this user; no condition always does."""
    if condition is None:
        return True
    if condition.stage is not None:
        return known.stage in condition.stage
    if condition.all_of is not None:
        return all(holds(part, known) for part in condition.all_of)
    if condition.any_of is not None:
        return any(holds(part, known) for part in condition.any_of)
    if condition.none_of is not None:
        return not any(holds(part, known) for part in condition.none_of)
    if condition.column is not None:
        return _passes(condition, known.columns.get(condition.column))
    assert condition.feature is not None, "a condition asks something"
    return _passes(condition, known.features.get(condition.feature))


def _passes(condition: Condition, value: str | float | None) -> bool:
    if condition.missing is not None:
        return condition.missing == (value is None)
    if value is None:
        return condition.if_missing
    if condition.one_of is not None:
        return any(_same(value, one) for one in condition.one_of)
    number = _number(value)
    if number is None:
        return condition.if_missing  # a text where a number is asked for is as good as no value
    if condition.below is not None:
        return number < condition.below
    assert condition.at_least is not None, "a column or feature is tested"
    return number >= condition.at_least


def _same(value: str | float, one: str | float) -> bool:
    if isinstance(value, str) == isinstance(one, str):
        return value == one
    mine, other = _number(value), _number(one)
    return mine is not None and mine == other


def _number(value: str | float) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return None if number != number else number


def excluded_by(action: str, rules: Sequence[RuleConfig], known: Known) -> RuleConfig | None:
    """The first rule that forbids this action for this user."""
    for rule in rules:
        if action in rule.exclude_actions and holds(rule.when, known):
            return rule
    return None


def requiring(rules: Sequence[RuleConfig], known: Known) -> list[RuleConfig]:
    """The rules that require actions for this user, in order."""
    return [rule for rule in rules if rule.require_actions and holds(rule.when, known)]


@dataclass(frozen=True)
class ItemRule:
    """What one rule says about items for this user."""

    rule: RuleConfig
    exclude: ItemSelector | None
    require: ItemSelector | None

    def forbids(self, item_id: str, *, flags: Iterable[str], categories: Iterable[str]) -> bool:
        """Whether this item may not be shown."""
        flags, categories = frozenset(flags), frozenset(categories)
        if self.exclude is not None and _selected(self.exclude, item_id, flags, categories):
            return True
        return self.require is not None and not _selected(self.require, item_id, flags, categories)


def item_rules(rules: Sequence[RuleConfig], known: Known) -> list[ItemRule]:
    """The rules about items that hold for this user, in order. An item is shown when none of them forbids it."""
    return [
        ItemRule(rule, rule.exclude_items, rule.require_items)
        for rule in rules
        if (rule.exclude_items or rule.require_items) and holds(rule.when, known)
    ]


def _selected(selector: ItemSelector, item_id: str, flags: frozenset[str], categories: frozenset[str]) -> bool:
    named = item_id in selector.items
    return named or not flags.isdisjoint(selector.flags) or not categories.isdisjoint(selector.categories)


def check_columns(config: PolicyConfig, known: Iterable[str]) -> None:
    """Raises ConfigError where the policy reads a column that the user table does not have: a rule that asks for it would never protect anybody."""
    there = sorted(known)
    for column in sorted(config.columns()):
        if column not in there:
            raise ConfigError(
                "the policy reads a column that the user table does not have",
                field="policy",
                value=column,
                fix=f"name it in source.users of the recipe, or ask for one of {there}",
            )
