"""Each stage has its strategy; a recipe changes a part of it and keeps the rest; the shipped actions agree with it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from clm_ray.config.policy import shipped_actions
from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.config.stages import STAGES, Stage
from clm_ray.errors import ConfigError

RAW: dict[str, Any] = {
    "name": "shop",
    "source": {"kind": "files", "events": {"paths": ["unused.parquet"]}},
    "event_types": {"purchase": {"roles": ["positive", "context", "activity"]}},
}


def recipe(*overrides: str) -> Recipe:
    return recipe_from(RAW, overrides=overrides)


@pytest.mark.parametrize(
    ("stage", "name", "options"),
    [
        ("prospect", "convert", {"popular_share"}),
        ("new", "teach", {"diversity"}),
        ("established", "deepen", {"adjacent_share", "freshness"}),
        ("at_risk", "treat", set()),
        ("churned", "win_back", {"freshness"}),
        ("reactivated", "watch", set()),
    ],
)
def test_every_stage_has_a_strategy_of_its_own(stage: Stage, name: str, options: set[str]) -> None:
    strategy = recipe().strategy.of(stage)
    assert (strategy.name, set(strategy.options())) == (name, options)
    assert strategy.why


def test_a_stage_given_in_part_keeps_the_rest_and_other_stages_stay() -> None:
    changed, shipped = (
        recipe("strategy.new.diversity=0.5", "strategy.new.popular_share=0.1").strategy,
        recipe().strategy,
    )
    assert changed.new.options() == {"diversity": 0.5, "popular_share": 0.1}
    assert (changed.new.name, changed.new.why) == (shipped.new.name, shipped.new.why)
    assert [changed.of(s) == shipped.of(s) for s in STAGES] == [s != "new" for s in STAGES]
    off = recipe(
        "strategy.new.diversity=null", "strategy.established.freshness=null", "strategy.established.adjacent_share=0"
    )
    assert (off.strategy.new.options(), off.strategy.established.options()) == ({}, {})


def test_a_diversity_of_nought_is_an_option_too() -> None:
    assert recipe("strategy.at_risk.diversity=0").strategy.at_risk.options() == {"diversity": 0.0}


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("strategy.new.diversity=1", "strategy.new.diversity"),
        ("strategy.new.divers=0.1", "strategy.new.divers"),
        ("strategy.news={}", "strategy.news"),
        ("strategy.new.name=Not so", "strategy.new.name"),
        ("strategy.churned.adjacent_share=-0.1", "strategy.churned.adjacent_share"),
        ("strategy.established.popular_share=0.9", "strategy.established"),
        ("strategy.new=diverse", "strategy.new"),
        ("strategy.popular_items=0", "strategy.popular_items"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_key(override: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe(override)
    assert caught.value.field == field
    assert caught.value.fix


def test_strategies_are_served_and_train_nothing() -> None:
    mine = recipe("strategy.new.diversity=0.5")
    assert mine.training_digest() == recipe().training_digest()
    assert recipe().served_by(mine).strategy == mine.strategy
    assert recipe_from(yaml.safe_load(mine.to_yaml())) == mine


def test_the_shipped_actions_are_those_that_the_strategies_speak_of() -> None:
    of = {stage: {a.name for a in shipped_actions() if stage in a.stages} for stage in STAGES}
    assert of == {
        "prospect": set(),
        "new": {"targeted_slate"},
        "established": {"targeted_slate", "reminder"},
        "at_risk": {"targeted_slate", "reminder", "coupon_small", "coupon_large"},
        "churned": {"win_back"},
        "reactivated": set(),
    }
    assert all(set(action.uplift) == set(action.stages) for action in shipped_actions())
