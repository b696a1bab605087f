"""Recipes: what is read, what is overridden, and what is refused with field, value and fix."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from clm_ray.config.recipe import Recipe, load_recipe, recipe_from, shipped_recipes
from clm_ray.errors import ConfigError

BUYS = {"buy": {"roles": ["positive", "context", "activity"]}}
RAW: dict[str, Any] = {
    "name": "mine",
    "source": {"kind": "files", "events": {"paths": ["log.parquet"]}},
    "event_types": BUYS,
}
MAILED = {"event_types": {**BUYS, "mail": {"roles": ["context"]}}, "retention": {"treatments": ["mail"]}}


def refused(**sections: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        recipe_from({**copy.deepcopy(RAW), **sections})
    return caught.value


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load_and_come_back_from_their_own_yaml(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    spelled_out = tmp_path / "again.yaml"
    spelled_out.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(str(spelled_out)) == recipe
    assert load_recipe(str(spelled_out)).digest() == recipe.digest()


def test_the_recipes_of_the_readme_are_shipped() -> None:
    assert {"complete_journey", "movielens_100k"} <= set(shipped_recipes())


def sections_of(model: type[BaseModel], path: str = "") -> dict[str, str | None]:
    found = {f"{path}{name}": field.description for name, field in model.model_fields.items()}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= sections_of(field.annotation, f"{path}{name}.")
    return found


def test_every_knob_says_what_it_is() -> None:
    knobs = sections_of(Recipe)
    assert len(knobs) > 80
    described = {name for name, text in knobs.items() if text}
    assert [name for name in knobs if name not in described and name != "model.encoder"] == []


def test_an_unknown_key_is_named_with_its_value() -> None:
    error = refused(train={"epoch": 7})
    assert (error.field, error.value) == ("train.epoch", 7)
    assert "config" in error.fix
    assert refused(trian={}).field == "trian"
    assert refused(event_types={"buy": {**BUYS["buy"], "role": "x"}}).field == "event_types.buy.role"


@pytest.mark.parametrize(
    ("sections", "field", "value"),
    [
        ({"train": {"epochs": "many"}}, "train.epochs", "many"),
        ({"train": {"epochs": 2.5}}, "train.epochs", 2.5),
        ({"train": {"epochs": 0}}, "train.epochs", 0),
        ({"train": {"use_gpu": "perhaps"}}, "train.use_gpu", "perhaps"),
        ({"train": 3}, "train", 3),
        ({"train": {"metric": "clicks"}}, "train.metric", "clicks"),
        ({"name": 5}, "name", 5),
        ({"name": "Two Words"}, "name", "Two Words"),
        ({"event_types": {"buy": {"roles": ["bought"]}}}, "event_types.buy.roles.0", "bought"),
        ({"event_types": {}}, "event_types", None),
        ({"impressions": {"alpha": 1.5}}, "impressions.alpha", 1.5),
        ({"retention": {"bin_ends": []}}, "retention.bin_ends", []),
        ({"retention": {"report_days": []}}, "retention.report_days", []),
    ],
)
def test_a_wrong_type_or_size_is_named_with_its_value(sections: dict[str, Any], field: str, value: object) -> None:
    error = refused(**sections)
    assert (error.field, error.value) == (field, value)
    assert error.fix


@pytest.mark.parametrize(
    ("sections", "field", "said"),
    [
        ({"event_types": {"see": {"roles": ["context", "activity"]}}}, "recipe", "nothing to learn"),
        ({"event_types": {"buy": {"roles": ["positive", "activity"]}}}, "recipe", "context"),
        ({"event_types": {"buy": {"roles": ["positive", "context"]}}}, "recipe", "retention.enabled=false"),
        ({"impressions": {"negatives": "explicit"}}, "recipe", "role negative"),
        ({"source": {"kind": "files"}}, "recipe", "source.events is required"),
        ({"split": {"protocol": "time"}}, "split", "train_end and valid_end"),
        ({"retention": {"bin_ends": [3, 2, 7]}}, "retention", "rise strictly"),
        ({"retention": {"bin_ends": [1, 9, 28]}}, "retention", "report_days 7"),
        ({"retention": {"treatments": ["buy"]}}, "recipe", "role context"),
        ({"retention": {"treatments": ["mail"]}}, "recipe", "names 'mail'"),
        (MAILED | {"model": {"outputs": ["value"]}}, "recipe", "spend is known only of those who were not treated"),
        ({"train": {"calibration_from": "judged"}}, "recipe", "split.refit=true"),
        ({"model": {"width": 10, "heads": 4}}, "model", "multiple of heads"),
        ({"features": {"max_history": 128}}, "recipe", "features.max_history"),
        ({"policy": {"preferences": {"new": {"gift": 1.0}}}}, "policy", "unknown action 'gift'"),
        ({"policy": {"actions": [{"name": "none"}]}}, "policy", "distinct"),
    ],
)
def test_contradictions_are_refused_in_words(sections: dict[str, Any], field: str, said: str) -> None:
    error = refused(**sections)
    assert said in error.problem
    assert error.field == field
    assert error.fix


def test_several_mistakes_are_counted() -> None:
    assert "(and 1 more)" in refused(train={"epochs": "x", "seed": "y"}).problem


def test_overrides_are_read_as_yaml_and_reach_any_depth() -> None:
    recipe = load_recipe(
        "complete_journey",
        overrides=[
            "train.epochs=7",
            "train.learning_rate=1e-4",
            "model.encoder.name=bert-base-uncased",
            "features.windows_days=[3, 9]",
            "split.train_end=2017-08-01",
            "event_types.refund={roles: [context]}",
            "train.epochs=8",
        ],
    )
    assert (recipe.train.epochs, recipe.train.learning_rate) == (8, 1e-4)
    assert (recipe.model.encoder.name, recipe.features.windows_days) == ("bert-base-uncased", (3, 9))
    assert recipe.split.train_end == "2017-08-01"
    assert recipe.event_types["refund"].roles == ("context",)
    assert recipe.model.encoder.max_tokens == load_recipe("complete_journey").model.encoder.max_tokens


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("train.epochs", "--set", "train.epochs"),
        ("=1", "--set", "=1"),
        ("train.epochs=[1", "--set train.epochs", "[1"),
        ("name.first=1", "--set name.first", "name"),
        ("train.epoch=1", "train.epoch", 1),
        ("train=", "train", None),
    ],
)
def test_a_bad_override_is_named(override: str, field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("complete_journey", overrides=[override])
    assert (caught.value.field, caught.value.value) == (field, value)
    assert caught.value.fix


def test_plain_data_stays_as_it_was_given() -> None:
    given = copy.deepcopy(RAW)
    assert recipe_from(given, overrides=["train.epochs=9"]).train.epochs == 9
    assert given == RAW


@pytest.mark.parametrize(
    ("text", "said"), [("a: [1", "not valid YAML"), ("- a\n- b", "mapping of sections"), ("", "mapping of sections")]
)
def test_a_file_that_is_no_recipe(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as caught:
        load_recipe(str(file))
    assert (caught.value.field, caught.value.value) == ("recipe", str(file))


def test_a_recipe_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_bytes("name: käse\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8") as caught:
        load_recipe(str(path))
    assert (caught.value.field, caught.value.value) == ("recipe", str(path))


def test_a_missing_recipe_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="no such recipe") as caught:
        load_recipe("nothing")
    assert "complete_journey" in caught.value.fix
    with pytest.raises(ConfigError, match="no such recipe"):
        load_recipe("/nowhere/mine.yaml")


def test_digests_say_what_changed() -> None:
    base, later, other = (
        recipe_from(RAW, overrides=sets) for sets in ([], ["serve.k=3", "policy.budget=1"], ["train.seed=1"])
    )
    assert len({base.digest(), later.digest(), other.digest()}) == 3
    assert base.training_digest() == later.training_digest() != other.training_digest()
    assert recipe_from(yaml.safe_load(base.to_yaml())).digest() == base.digest()


def test_a_run_keeps_its_name_with_another_number_of_workers() -> None:
    base, more, other = (
        recipe_from(RAW, overrides=sets)
        for sets in ([], ["train.num_workers=7", "train.checkpoint_steps=3", "train.max_failures=0"], ["train.ema=0.9"])
    )
    assert base.training_digest() == more.training_digest() != other.training_digest()


def test_unquoted_dates_of_a_file_are_dates(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    split = "split: {protocol: time, train_end: 2024-01-31, valid_end: 2024-02-10T12:00:00}"
    file.write_text(yaml.safe_dump(RAW) + split, encoding="utf-8")
    recipe = load_recipe(str(file))
    assert (recipe.split.train_end, recipe.split.valid_end) == ("2024-01-31", "2024-02-10T12:00:00")


def _made(**sections: Any) -> Recipe:
    return recipe_from({**copy.deepcopy(RAW), **sections})


def test_the_type_of_served_slates_is_always_there_and_has_no_role() -> None:
    types = {"buy": {"roles": ["positive", "context", "activity"]}}
    made = _made(event_types=types)
    assert made.event_types["impression"].roles == ()
    other = _made(event_types=types, serve={"impression_event": "slate"})
    assert set(other.event_types) == {"buy", "slate"}
    with_role = {**types, "impression": {"roles": ["context"]}}
    assert "served slates" in str(refused(event_types=with_role))


@pytest.mark.parametrize("delimiter", ["", ";;", "§", '"', "\n", "\r", "\0", "\\n"])
def test_a_delimiter_is_one_character(delimiter: str) -> None:
    error = refused(source={"kind": "files", "events": {"paths": ["x"], "format": "csv", "delimiter": delimiter}})
    assert error.field == "source.events.delimiter"
    assert error.value == delimiter
    assert "one ASCII character" in str(error)


@pytest.mark.parametrize(("given", "meant"), [("\\t", "\t"), ("\t", "\t"), (";", ";"), ("|", "|")])
def test_a_tab_may_be_written_as_two_characters(given: str, meant: str) -> None:
    events = {"paths": ["x"], "format": "csv", "delimiter": given}
    recipe = recipe_from({**RAW, "source": {"kind": "files", "events": events}})
    assert recipe.source.events is not None
    assert recipe.source.events.delimiter == meant


@pytest.mark.parametrize(
    ("sections", "field", "said"),
    [
        ({"evaluate": {"ks": []}}, "evaluate.ks", "at least 1"),
        ({"evaluate": {"ks": [10, 0]}}, "evaluate.ks.1", "greater than or equal to 1"),
        ({"features": {"windows_days": [7, 0]}}, "features.windows_days.1", "greater than or equal to 1"),
        ({"sequences": {"seed": -1}}, "sequences.seed", "greater than or equal to 0"),
        ({"lifecycle": {"at_risk_days": 60, "churned_days": 60}}, "lifecycle", "less than churned_days"),
        ({"event_types": {"a": {"roles": ["positive", "negative"]}}}, "event_types.a", "not both"),
        ({"event_types": {"a": {"roles": ["context"], "positive_from": 4}}}, "event_types.a", "value: rating"),
    ],
)
def test_values_that_no_job_can_use(sections: dict[str, Any], field: str, said: str) -> None:
    error = refused(**sections)
    assert error.field == field
    assert said in str(error)


def test_one_threshold_of_silence_may_be_given_and_the_other_learned() -> None:
    assert recipe_from({**RAW, "lifecycle": {"at_risk_days": 60}}).lifecycle.churned_days is None


def test_codes_of_events_may_be_numbers() -> None:
    raw = yaml.safe_load("{paths: [x], event_type_map: {1: buy, '2': buy}}")
    recipe = recipe_from({**RAW, "source": {"kind": "files", "events": raw}})
    assert recipe.source.events is not None
    assert recipe.source.events.event_type_map == {"1": "buy", "2": "buy"}


def test_the_type_of_served_slates_is_one_of_the_log_where_the_recipe_names_it() -> None:
    types = {"buy": {"roles": ["positive", "context", "activity"]}}
    made = _made(event_types=types)
    assert (tuple(made.event_types), made.log_types) == (("buy", "impression"), ("buy",))
    assert _made(event_types={**types, "impression": {"roles": []}}).log_types == ("buy", "impression")
    assert pickle.loads(pickle.dumps(made)).log_types == ("buy",)
    assert made.model_copy(update={"name": "other"}).log_types == ("buy",)
    again = recipe_from(yaml.safe_load(made.to_yaml()))
    assert (again.log_types, again.digest(), tuple(again.event_types)) == (
        ("buy",),
        made.digest(),
        ("buy", "impression"),
    )
