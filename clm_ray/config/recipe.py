"""The recipe: one YAML file, strictly typed, that configures one run from log to endpoint.

`load_recipe("complete_journey")` opens a shipped recipe, `load_recipe("path/to/my.yaml")` yours; overrides are
`section.key=value` strings whose value is read as YAML.
"""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from clm_ray.config.data import (
    FeaturesConfig,
    ImpressionsConfig,
    NeighboursConfig,
    RetentionConfig,
    SequencesConfig,
    SplitConfig,
)
from clm_ray.config.evaluate import EvaluateConfig
from clm_ray.config.lifecycle import LifecycleConfig
from clm_ray.config.model import ModelConfig
from clm_ray.config.policy import PolicyConfig
from clm_ray.config.privacy import PrivacyConfig
from clm_ray.config.section import Section
from clm_ray.config.serve import ServeConfig, StoreConfig
from clm_ray.config.source import UNNAMED, CleanConfig, EventTypeConfig, SourceConfig
from clm_ray.config.strategy import StrategyConfig
from clm_ray.config.train import TrainConfig
from clm_ray.errors import ConfigError

_LATER = ("description", "evaluate", "lifecycle", "policy", "privacy", "serve", "store", "strategy")
_MEANS = (
    "num_workers",
    "threads_per_worker",
    "log_every",
    "checkpoint_steps",
    "batches_ahead",
    "max_failures",
    "activation_checkpointing",
    "tracking",
)
"""Keys of `train` that change no step: with other values the same run goes on."""
_SERVED = ("policy", "serve", "store", "strategy")
SHIPPED = Path(__file__).parent.parent / "recipes"


class Recipe(Section):
    """Everything that configures one run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$")
    """Identifier; also the default name of the workspace folder."""
    description: str = ""
    """What the data are, what they can and cannot show, and their licence."""
    source: SourceConfig
    """What is read."""
    event_types: dict[str, EventTypeConfig] = Field(min_length=1)
    """Event type → its meaning. Every event of the log must have one of these types."""
    clean: CleanConfig = CleanConfig()
    """Which rows are rejected."""
    privacy: PrivacyConfig = PrivacyConfig()
    """Pseudonyms, smallest groups."""
    split: SplitConfig = SplitConfig()
    """Train, valid, test."""
    impressions: ImpressionsConfig = ImpressionsConfig()
    """Negatives."""
    retention: RetentionConfig = RetentionConfig()
    """References of the retention head."""
    features: FeaturesConfig = FeaturesConfig()
    """Dense features."""
    neighbours: NeighboursConfig = NeighboursConfig()
    """Item neighbours."""
    sequences: SequencesConfig = SequencesConfig()
    """User sequences."""
    model: ModelConfig = ModelConfig()
    """The model."""
    train: TrainConfig = TrainConfig()
    """Training."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Evaluation."""
    lifecycle: LifecycleConfig = LifecycleConfig()
    """Stages."""
    policy: PolicyConfig = PolicyConfig()
    """Retention actions."""
    strategy: StrategyConfig = StrategyConfig()
    """Slates by stage."""
    serve: ServeConfig = ServeConfig()
    """The endpoint."""
    store: StoreConfig = StoreConfig()
    """Online state."""

    @model_validator(mode="before")
    @classmethod
    def _with_slates(cls, raw: Any) -> Any:
        """Add the event type that served slates come back as, where the recipe does not name it."""
        if not isinstance(raw, dict) or not isinstance(raw.get("event_types"), dict) or not raw["event_types"]:
            return raw
        serve = raw.get("serve", {})
        name = serve.get("impression_event") if isinstance(serve, dict) else getattr(serve, "impression_event", None)
        name = name or ServeConfig().impression_event
        if not isinstance(name, str) or name in raw["event_types"]:
            return raw
        return {**raw, "event_types": {**raw["event_types"], name: UNNAMED}}

    @property
    def log_types(self) -> tuple[str, ...]:
        """Event types that the recipe itself names: those that rows of the log may have. What comes back from the endpoint may have any."""
        return tuple(name for name, kind in self.event_types.items() if kind.model_fields_set)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        roles = {role for t in self.event_types.values() for role in t.roles}
        rated = any(t.positive_from is not None for t in self.event_types.values())
        if "positive" not in roles and not rated:
            raise ValueError("event_types: no type is positive and none has positive_from: there is nothing to learn")
        if "context" not in roles:
            raise ValueError("event_types: no type has the role context: the user tower would see nothing")
        if self.retention.enabled and "activity" not in roles:
            raise ValueError(
                "event_types: retention needs a type with the role activity; or set retention.enabled=false"
            )
        for name in self.retention.treatments:
            kind = self.event_types.get(name)
            if kind is None or "activity" in kind.roles or "context" not in kind.roles:
                raise ValueError(
                    f"retention.treatments names {name!r}: it must be an event type with the role context (what was sent before is an "
                    "input) and without the role activity (to be sent something is no sign of life)"
                )
        if self.impressions.negatives == "explicit" and "negative" not in roles and not rated:
            raise ValueError("impressions.negatives explicit needs a type with the role negative or with positive_from")
        if self.event_types[self.serve.impression_event].roles:
            raise ValueError(
                f"event_types.{self.serve.impression_event}: served slates come back as this type (serve.impression_event), "
                "their items and labels as candidates: it may have no role of its own"
            )
        if self.features.max_history <= self.sequences.max_context:
            raise ValueError(
                "features.max_history must exceed sequences.max_context: features look at no fewer events than the user tower"
            )
        if self.train.calibration_from is not None and not self.split.refit:
            raise ValueError(
                "train.calibration_from is for split.refit=true: with a validation split a run fits calibrations of its own"
            )
        if "value" in self.model.outputs and self.retention.treatments:
            raise ValueError(
                "model.outputs has value, and retention.treatments is given: spend is known only of those who were not treated within the "
                "whole horizon, who are no fair sample of the users; leave one of them out"
            )
        if self.source.kind == "files" and self.source.events is None:
            raise ValueError("source.events is required for kind files")
        return self

    def digest(self) -> str:
        """Short SHA-256 of the whole recipe: equal recipes have equal digests."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def training_digest(self) -> str:
        """Digest of what decides a trained model: every section but those read later (evaluate, policy, serve, store, strategy), every key of
        `train` but those that say by which means it is trained."""
        text = json.dumps(self.training_part(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def training_part(self) -> dict[str, Any]:
        """What `training_digest` is of, as plain data."""
        exclude: Any = {**dict.fromkeys(_LATER, True), "train": {*_MEANS}}
        return self.model_dump(mode="json", exclude=exclude)

    def served_by(self, other: Recipe) -> Recipe:
        """This recipe with the sections that the endpoint alone reads (policy, serve, store, strategy) from `other`."""
        return self.model_copy(update={name: getattr(other, name) for name in _SERVED})

    def to_yaml(self) -> str:
        """The full recipe, every knob spelled out. An event type that it does not name itself (`log_types`) is left out: reading it adds the type again,
        in the same place, and it stays one that the log's own rows may not have."""
        raw = self.model_dump(mode="json")
        raw["event_types"] = {name: raw["event_types"][name] for name in self.log_types}
        return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(p.stem for p in SHIPPED.glob("*.yaml"))


def load_recipe(name_or_path: str, *, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by shipped name or by path, apply `section.key=value` overrides, check it.

    Raises ConfigError: no such recipe, not UTF-8, not YAML, an unknown key, a wrong type, values that contradict each other.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = SHIPPED / f"{name_or_path}.yaml"
    if not path.is_file():
        raise ConfigError(
            "no such recipe",
            field="recipe",
            value=name_or_path,
            fix=f"name one of {shipped_recipes()} or give the path of a YAML file",
        )
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8", field="recipe", value=str(path), fix="save the file as UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(
            f"not valid YAML: {error}", field="recipe", value=str(path), fix="correct the file"
        ) from error
    if not isinstance(raw, dict):
        raise ConfigError(
            "a recipe is a mapping of sections", field="recipe", value=str(path), fix="see clm_ray/recipes"
        )
    return recipe_from(raw, overrides=overrides)


def recipe_from(raw: dict[str, Any], *, overrides: Iterable[str] = ()) -> Recipe:
    """Check a recipe given as plain data, which stays as it is. Raises ConfigError as `load_recipe` does."""
    changed = copy.deepcopy(raw)
    for override in overrides:
        _apply(changed, override)
    try:
        return Recipe.model_validate(_dates_as_text(changed), strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        more = error.error_count() - 1
        raise ConfigError(
            first["msg"] + (f" (and {more} more)" if more else ""),
            field=".".join(str(part) for part in first["loc"]) or "recipe",
            value=first["input"] if not isinstance(first["input"], dict) else None,
            fix="see the key's description in clm_ray/config, or `python jobs/prepare.py --help`",
        ) from error


def _apply(raw: dict[str, Any], override: str) -> None:
    key, eq, text = override.partition("=")
    if not eq or not key:
        raise ConfigError("not of the form section.key=value", field="--set", value=override, fix="e.g. train.epochs=1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"value is not valid YAML: {error}", field=f"--set {key}", value=text, fix="quote it"
        ) from error
    node = raw
    *parents, last = key.split(".")
    for parent in parents:
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError("is a value, not a section", field=f"--set {key}", value=parent, fix="check the key")
        node = child
    node[last] = value


def _dates_as_text(value: Any) -> Any:
    """YAML reads an unquoted 2017-09-24 as a date; sections hold dates as ISO text."""
    if isinstance(value, dict):
        return {key: _dates_as_text(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_dates_as_text(inner) for inner in value]
    return value.isoformat() if isinstance(value, dt.date) else value
