"""The search space of `tune`: a YAML file that says, for keys of the recipe, which values may be tried.

    train.learning_rate: {log_uniform: [0.001, 0.01]}
    model.width: {choice: [32, 48, 64]}
    model.dropout: {uniform: [0.0, 0.3]}
    model.layers: {int: [1, 3]}                      both ends may be tried

Everything that can be wrong with it is told before anything is started: keys, ranges, and recipes that do not hold together.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import yaml

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.data.manifest import BUILT_BY
from clm_ray.errors import ConfigError

Kind = Literal["choice", "uniform", "log_uniform", "int"]
KINDS: tuple[Kind, ...] = ("choice", "uniform", "log_uniform", "int")
SEARCHED = ("model", "train")
"""Sections that training reads beside the dataset."""
_LOG = ("source", "clean", "lifecycle")
_FIXED = {
    "train.metric": "it is what the trials are compared by",
    "train.num_workers": "it changes the speed, not the model",
    "train.use_gpu": "it changes the speed, not the model",
    "train.tracking": "no model depends on it",
}
_SAMPLES = 200
"""Recipes that are tried out where there are too many for all of them."""


@dataclass(frozen=True)
class Choice:
    """What one key of the recipe may be. `values`: the choices, or the two ends of the range."""

    key: str
    kind: Kind
    values: tuple[Any, ...]

    def draw(self, rng: np.random.Generator) -> Any:
        """One value at random."""
        if self.kind == "choice":
            return self.values[int(rng.integers(len(self.values)))]
        low, high = self.values
        if self.kind == "int":
            return int(rng.integers(low, high + 1))
        if self.kind == "log_uniform":
            return math.exp(rng.uniform(math.log(low), math.log(high)))
        return float(rng.uniform(low, high))

    @property
    def discrete(self) -> tuple[Any, ...] | None:
        """Every value, where they can be counted."""
        if self.kind == "int":
            return tuple(range(self.values[0], self.values[1] + 1))
        return self.values if self.kind == "choice" else None


@dataclass(frozen=True)
class Space:
    """The choices of every searched key, in the order of the file."""

    choices: tuple[Choice, ...]

    @staticmethod
    def open(path: Path, *, recipe: Recipe) -> Space:
        """Read and check a space file. Raises ConfigError as `space_from` does, and for a file that is not there or not YAML."""
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                "cannot be read", field="--space", value=str(path), fix="give the path of a YAML file"
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"not valid YAML: {error}", field="--space", value=str(path), fix="correct the file"
            ) from error
        return space_from(raw, recipe=recipe)

    def to_dict(self) -> dict[str, dict[str, list[Any]]]:
        """As in the file."""
        return {c.key: {c.kind: list(c.values)} for c in self.choices}

    def samples(self) -> Iterator[dict[str, Any]]:
        """Every combination where there are few, else random ones and the ends of every range; the same each time."""
        every = [c.discrete for c in self.choices]
        if None not in every and math.prod(len(v or ()) for v in every) <= _SAMPLES:
            names = [c.key for c in self.choices]
            yield from (dict(zip(names, values, strict=True)) for values in product(*cast("list[tuple[Any]]", every)))
            return
        rng = np.random.default_rng(0)
        for choice in self.choices:
            for value in choice.values:
                yield {**{c.key: c.draw(rng) for c in self.choices}, choice.key: value}
        for _ in range(_SAMPLES):
            yield {c.key: c.draw(rng) for c in self.choices}


def space_from(raw: Any, *, recipe: Recipe) -> Space:
    """Check a space given as plain data, and recipes made of its values.

    Raises ConfigError: not a mapping, no key, a key that the recipe does not have or that cannot be searched on a prepared dataset, an
    unknown kind, an empty range, values that the recipe refuses.
    """
    if not isinstance(raw, dict) or not raw:
        raise ConfigError(
            "is not a mapping of recipe keys",
            field="space",
            value=raw,
            fix="e.g. train.learning_rate: {uniform: [0, 1]}",
        )
    space = Space(tuple(_choice(str(key), value) for key, value in raw.items()))
    for values in space.samples():
        try:
            with_values(recipe, values)
        except ConfigError as error:
            raise ConfigError(
                f"allows a recipe that is refused: {error.field}: {error.problem}",
                field="space",
                value=values,
                fix="narrow the space, or correct the key",
            ) from error
    return space


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with other values at some keys (`section.key`). Raises ConfigError as `load_recipe` does."""
    raw = copy.deepcopy(recipe.model_dump(mode="json"))
    for key, value in values.items():
        *parents, last = key.split(".")
        node = raw
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError("is a value, not a section", field=key, value=parent, fix="check the key")
        node[last] = value
    return recipe_from(raw)


def _choice(key: str, raw: Any) -> Choice:
    field = f"space.{key}"
    _check_key(key, field)
    if not isinstance(raw, dict) or len(raw) != 1 or next(iter(raw)) not in KINDS:
        raise ConfigError("says not how it is searched", field=field, value=raw, fix=f"give one of {', '.join(KINDS)}")
    kind, values = next(iter(raw.items()))
    if not isinstance(values, list):
        raise ConfigError("is not a list", field=f"{field}.{kind}", value=values, fix="give values in square brackets")
    if kind == "choice":
        if len(values) < 2 or len({json.dumps(v, sort_keys=True, default=str) for v in values}) < len(values):
            raise ConfigError(
                "leaves nothing to choose, or names a value twice",
                field=f"{field}.choice",
                value=values,
                fix="give two or more different values",
            )
        return Choice(key, kind, tuple(values))
    return Choice(key, kind, _range(f"{field}.{kind}", kind, values))


def _check_key(key: str, field: str) -> None:
    section = key.partition(".")[0]
    if section in BUILT_BY or section in _LOG:
        raise ConfigError(
            "decides the dataset, and a search compares trainings on one dataset",
            field=field,
            value=key,
            fix="prepare a dataset for each value and compare the evaluations; a search may vary "
            + " and ".join(f"{name}.*" for name in SEARCHED),
        )
    if key in _FIXED:
        raise ConfigError(f"cannot be searched: {_FIXED[key]}", field=field, value=key, fix="set it in the recipe")
    if section not in Recipe.model_fields:
        raise ConfigError("no such key in a recipe", field=field, value=key, fix="see clm_ray/config")
    if section not in SEARCHED or "." not in key:
        raise ConfigError(
            "no trained model depends on it", field=field, value=key, fix="search keys of the sections model and train"
        )


def _range(field: str, kind: str, values: list[Any]) -> tuple[float, float] | tuple[int, int]:
    ends = [_number(v) for v in values]
    if len(ends) != 2 or None in ends:
        raise ConfigError("is not a range", field=field, value=values, fix="give two numbers: [lowest, highest]")
    low, high = cast("list[float]", ends)
    if not low < high:
        raise ConfigError("is an empty range", field=field, value=values, fix="give the lowest value first")
    if kind == "log_uniform" and low <= 0:
        raise ConfigError("has no logarithm", field=field, value=values, fix="start above 0, or use uniform")
    if kind == "int":
        if low != int(low) or high != int(high):
            raise ConfigError("is not a range of whole numbers", field=field, value=values, fix="or use uniform")
        return int(low), int(high)
    return low, high


def _number(value: Any) -> float | None:
    """YAML reads 1e-4 as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
