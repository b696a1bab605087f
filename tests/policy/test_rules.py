"""Rules are data: conditions say what they say, unknown keys are errors, items are excluded and required by flags."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clm_ray.config.policy import STAGES, PolicyConfig
from clm_ray.config.rules import Condition, RuleConfig
from clm_ray.errors import ConfigError
from clm_ray.policy.rules import Known, check_columns, excluded_by, holds, item_rules, requiring


def condition(**raw: object) -> Condition:
    return Condition.model_validate(raw)


def rule(**raw: object) -> RuleConfig:
    return RuleConfig.model_validate({"name": "r", "kind": "legal", "reason": "because", **raw})


ADULT = Known("at_risk", {"age": 30.0, "town": "x", "risk": "2"}, {"value": 5.0, "days_since_last": 20.0})


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"stage": ["at_risk", "churned"]}, True),
        ({"stage": ["new"]}, False),
        ({"column": "age", "below": 18}, False),
        ({"column": "age", "at_least": 30}, True),
        ({"column": "town", "one_of": ["x", "y"]}, True),
        ({"column": "town", "one_of": ["X"]}, False),
        ({"column": "age", "one_of": [30]}, True),
        ({"column": "risk", "at_least": 2}, True),
        ({"column": "risk", "one_of": [2]}, True),
        ({"column": "town", "below": 3}, False),
        ({"column": "town", "below": 3, "if_missing": True}, True),
        ({"column": "gone", "below": 3}, False),
        ({"column": "gone", "below": 3, "if_missing": True}, True),
        ({"column": "gone", "missing": True}, True),
        ({"column": "age", "missing": True}, False),
        ({"column": "age", "missing": False}, True),
        ({"feature": "value", "at_least": 5}, True),
        ({"feature": "days_since_return", "missing": True}, True),
        ({"all_of": [{"stage": ["at_risk"]}, {"column": "age", "below": 18}]}, False),
        ({"any_of": [{"stage": ["at_risk"]}, {"column": "age", "below": 18}]}, True),
        ({"none_of": [{"stage": ["new"]}, {"column": "age", "below": 18}]}, True),
    ],
)
def test_conditions(raw: dict[str, object], expected: bool) -> None:
    assert holds(Condition.model_validate(raw), ADULT) is expected
    assert holds(condition(none_of=[raw]), ADULT) is not expected


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"stage": ["asleep"]},
        {"stage": ["new"], "column": "age", "below": 3},
        {"column": "age"},
        {"column": "age", "below": 3, "at_least": 1},
        {"stage": ["new"], "below": 3},
        {"feature": "birthday", "below": 3},
        {"column": "age", "eval": "age < 3"},
        {"column": "age", "missing": True, "if_missing": True},
        {"all_of": []},
        {"none_of": [{"column": "age"}]},
    ],
)
def test_what_is_no_condition_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Condition.model_validate(raw)


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"exclude_actions": ["none"]},
        {"exclude_items": {}},
        {"exclude_actions": ["x"], "kind": "mood"},
        {"exclude_actions": ["x"], "reason": ""},
    ],
)
def test_what_is_no_rule_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        rule(**raw)


def test_a_rule_that_names_an_unknown_action_is_refused() -> None:
    one = {"name": "r", "kind": "legal", "reason": "b", "exclude_actions": ["gift"]}
    with pytest.raises(ValidationError, match="unknown action 'gift'"):
        PolicyConfig.model_validate({"rules": [one]})
    fine = {**one, "exclude_actions": ["reminder"]}
    with pytest.raises(ValidationError, match="distinct names"):
        PolicyConfig.model_validate({"rules": [fine, fine]})


LEAF = st.one_of(
    st.builds(lambda s: {"stage": [s]}, st.sampled_from(STAGES)),
    st.builds(lambda x, m: {"column": "age", "below": x, "if_missing": m}, st.floats(0, 100), st.booleans()),
    st.builds(lambda m: {"feature": "value", "missing": m}, st.booleans()),
)
TREES = st.recursive(
    LEAF,
    lambda inner: st.builds(
        lambda how, parts: {how: parts},
        st.sampled_from(["all_of", "any_of", "none_of"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=8,
)
USERS = st.builds(
    Known,
    st.sampled_from(STAGES),
    st.fixed_dictionaries({}, optional={"age": st.floats(0, 100)}),
    st.fixed_dictionaries({}, optional={"value": st.floats(0, 100)}),
)


@given(st.lists(TREES, min_size=1, max_size=3), USERS)
def test_joined_conditions_are_those_of_logic(parts: list[dict[str, Any]], user: Known) -> None:
    each = [holds(Condition.model_validate(part), user) for part in parts]
    assert holds(condition(all_of=parts), user) == all(each)
    assert holds(condition(any_of=parts), user) == any(each)
    assert holds(condition(none_of=parts), user) == (not any(each))
    again = Condition.model_validate(condition(all_of=parts).model_dump(mode="json"))
    assert holds(again, user) == all(each)


def test_the_first_rule_that_excludes_is_named() -> None:
    rules = [
        rule(name="a", when={"stage": ["new"]}, exclude_actions=["coupon"]),
        rule(name="b", exclude_actions=["coupon"]),
        rule(name="c", exclude_actions=["coupon"], require_actions=["none"]),
    ]
    found = excluded_by("coupon", rules, ADULT)
    assert found is not None
    assert found.name == "b"
    assert excluded_by("letter", rules, ADULT) is None
    assert [one.name for one in requiring(rules, ADULT)] == ["c"]


def test_items_are_excluded_and_required_by_flags_categories_and_ids() -> None:
    rules = [
        rule(
            name="minors", when={"column": "age", "below": 18, "if_missing": True}, exclude_items={"flags": ["alcohol"]}
        ),
        rule(
            name="kids", when={"column": "age", "below": 12}, require_items={"categories": ["toys"], "items": ["book"]}
        ),
        rule(name="others", exclude_actions=["coupon"]),
    ]
    assert item_rules(rules, ADULT) == []
    (unknown,) = item_rules(rules, Known("new"))
    assert unknown.forbids("gin", flags=["alcohol"], categories=[])
    assert not unknown.forbids("milk", flags=["fresh"], categories=["drinks"])
    child = item_rules(rules, Known("new", {"age": 8.0}))
    shown = {
        item: not any(one.forbids(item, flags=flags, categories=categories) for one in child)
        for item, flags, categories in [
            ("gin", ["alcohol"], ["toys"]),
            ("ball", [], ["toys"]),
            ("book", [], []),
            ("milk", [], ["drinks"]),
        ]
    }
    assert shown == {"gin": False, "ball": True, "book": True, "milk": False}


def test_a_column_that_nobody_has_is_an_error_and_not_a_rule_that_sleeps() -> None:
    config = PolicyConfig.model_validate(
        {
            "rules": [
                {
                    "name": "r",
                    "kind": "legal",
                    "reason": "b",
                    "exclude_actions": ["reminder"],
                    "when": {"none_of": [{"column": "age", "at_least": 18}]},
                }
            ],
            "fairness": {"columns": ["town"]},
        }
    )
    assert config.columns() == {"age", "town"}
    check_columns(config, ["age", "town", "more"])
    with pytest.raises(ConfigError, match="does not have"):
        check_columns(config, ["town"])
