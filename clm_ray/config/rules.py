"""A small declarative language for what must, and must not, be done or shown: conditions over what is known of a user.

    rules:
      - name: no_alcohol_for_minors
        kind: legal
        reason: alcohol is not advertised to minors
        when: {column: age, below: 18, if_missing: true}     # whoever's age is not known counts as a minor
        exclude_items: {flags: [alcohol]}

Nothing is ever evaluated as code: a condition is data of the shape below, and a key that does not exist is an error.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from clm_ray.config.section import Section
from clm_ray.config.stages import NO_ACTION, Stage

Feature = Literal["days_since_last", "days_since_first", "days_since_return", "value"]
"""What a condition may ask of the user's behaviour, as of the start of the decision period; days, and worth in the recipe's currency."""
RuleKind = Literal["prior_knowledge", "legal", "ethical", "business"]

_JOINED = ("all_of", "any_of", "none_of")
_ASKED = ("stage", "column", "feature", *_JOINED)
_TESTS = ("one_of", "below", "at_least", "missing")


class Condition(Section):
    """Exactly one question: about the stage, a column of the user table, a feature, or conditions joined."""

    stage: tuple[Stage, ...] | None = None
    """The life-cycle stage is one of these."""
    column: str | None = None
    """A column of the user table, tested by one of one_of, below, at_least, missing."""
    feature: Feature | None = None
    """A feature of the user, tested in the same way."""
    one_of: tuple[str | float, ...] | None = Field(default=None, min_length=1)
    """The value is one of these; texts are compared as they are, numbers as numbers."""
    below: float | None = None
    """The value is a number less than this."""
    at_least: float | None = None
    """The value is a number not less than this."""
    missing: bool | None = None
    """There is no value (true), or there is one (false)."""
    if_missing: bool = False
    """What one_of, below and at_least say of a user without a value. A rule that protects somebody is safer with true."""
    all_of: tuple[Condition, ...] | None = Field(default=None, min_length=1)
    """Every one of these holds."""
    any_of: tuple[Condition, ...] | None = Field(default=None, min_length=1)
    """At least one of these holds."""
    none_of: tuple[Condition, ...] | None = Field(default=None, min_length=1)
    """None of these holds."""

    @model_validator(mode="after")
    def _one_question(self) -> Condition:
        asked = [name for name in _ASKED if getattr(self, name) is not None]
        tests = [name for name in _TESTS if getattr(self, name) is not None]
        if len(asked) != 1:
            raise ValueError(f"a condition asks exactly one of {', '.join(_ASKED)}; this one asks {asked or 'nothing'}")
        if asked[0] in ("column", "feature"):
            if len(tests) != 1:
                raise ValueError(f"{asked[0]} needs exactly one of {', '.join(_TESTS)}; given: {tests or 'none'}")
        elif tests:
            raise ValueError(f"{', '.join(tests)} can only test a column or a feature")
        if self.if_missing and (not tests or tests[0] == "missing"):
            raise ValueError("if_missing goes with one_of, below or at_least")
        return self

    def asks_behaviour(self) -> bool:
        """Whether it asks a feature anywhere."""
        inner = (part for name in _JOINED for part in getattr(self, name) or ())
        return self.feature is not None or any(part.asks_behaviour() for part in inner)

    def columns(self) -> frozenset[str]:
        """The columns of the user table that it reads."""
        own = {self.column} if self.column is not None else set()
        inner = (part for name in _JOINED for part in getattr(self, name) or ())
        return frozenset(own).union(*(part.columns() for part in inner))


class ItemSelector(Section):
    """Some items of the catalogue: those with one of the flags or categories, and those named."""

    flags: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    items: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> ItemSelector:
        if not (self.flags or self.categories or self.items):
            raise ValueError("select items by flags, categories or items")
        return self


class RuleConfig(Section):
    """One rule. It is named, with its reason, wherever it had an effect."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Identifier; decisions name it as `rule:NAME`."""
    kind: RuleKind
    """Why there is such a rule: prior knowledge, the law, ethics, or business."""
    reason: str = Field(min_length=1, max_length=300)
    """One sentence for the explanation, without a full stop."""
    when: Condition | None = None
    """For whom; null: for everybody."""
    exclude_actions: tuple[str, ...] = ()
    """Actions that may not be taken."""
    require_actions: tuple[str, ...] = ()
    """Only these may be taken, where at least one is feasible; `none` says that nothing may be done."""
    exclude_items: ItemSelector | None = None
    """Items that may not be shown."""
    require_items: ItemSelector | None = None
    """Only these items may be shown."""

    @model_validator(mode="after")
    def _some_effect(self) -> RuleConfig:
        if (self.exclude_items or self.require_items) and self.when is not None and self.when.asks_behaviour():
            raise ValueError(
                f"rule {self.name} is about items: its condition can ask the stage and columns, no feature"
            )
        if not (self.exclude_actions or self.require_actions or self.exclude_items or self.require_items):
            raise ValueError(f"rule {self.name} has no effect: exclude or require actions or items")
        if NO_ACTION in self.exclude_actions:
            raise ValueError(f"rule {self.name} excludes {NO_ACTION!r}: require the actions instead")
        return self
