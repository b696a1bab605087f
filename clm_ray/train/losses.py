"""Which losses a run has, what they weigh, and the groups of the fairness penalty.

Shape letters: I item rows, Q targets of a window.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.config.train import GroupPenalty
from clm_ray.errors import TrainError
from clm_ray.features.catalogue import Catalogue
from clm_ray.model.recommender import LOSSES

_ALWAYS = ("click", "retention", "retrieval")


def loss_weights(recipe: Recipe) -> dict[str, float]:
    """Weight of each of LOSSES; 0 for those that the model does not have."""
    config = recipe.train
    weights = {name: float(getattr(config, f"{name}_weight")) for name in LOSSES if name != "fairness"}
    had = {*_ALWAYS, *recipe.model.outputs}
    fairness = config.fairness.weight if config.fairness is not None else 0.0
    return {name: weight if name in had else 0.0 for name, weight in weights.items()} | {"fairness": fairness}


def told_losses(recipe: Recipe) -> tuple[str, ...]:
    """Those of LOSSES that the run has, for progress lines and curves."""
    return tuple(n for n, weight in loss_weights(recipe).items() if n in _ALWAYS or weight > 0)


@dataclass(frozen=True)
class Groups:
    """Group numbers of the fairness penalty. Either by user or by item; without names there is no penalty."""

    names: tuple[str, ...] = ()
    by_user: dict[str, int] = field(default_factory=dict)
    by_item_I: NDArray[np.int64] | None = None

    def of(self, user: str, item_Q: NDArray[np.int32]) -> NDArray[np.int64]:
        """int64 [Q]: group of each target of a user; -1 where it is in none."""
        if self.by_item_I is not None:
            return self.by_item_I[item_Q]
        return np.full(len(item_Q), self.by_user.get(user, -1), np.int64)

    @staticmethod
    def build(
        config: GroupPenalty | None,
        *,
        columns: dict[str, tuple[dict[str, str], dict[str, float]]],
        catalogue: Catalogue,
    ) -> Groups:
        """Raises TrainError where no user has the column, or no item one of the categories."""
        if config is None:
            return Groups()
        if config.user_column is not None:
            name = config.user_column
            values = {user: known[name] for user, (known, _) in columns.items() if known.get(name)}
            if not values:
                known = sorted({key for categorical, _ in columns.values() for key in categorical})
                raise TrainError(
                    "no user has a value in this column",
                    field="train.fairness.user_column",
                    value=name,
                    fix=f"categorical columns of the user table are {known}",
                )
            names = tuple(sorted(set(values.values())))
            number = {value: position for position, value in enumerate(names)}
            return Groups(names, {user: number[value] for user, value in values.items()})
        return _by_category(config.item_categories, catalogue)


def _by_category(asked: tuple[str, ...], catalogue: Catalogue) -> Groups:
    code = {name: position for position, name in enumerate(catalogue.categories)}
    missing = [name for name in asked if name not in code]
    if missing:
        raise TrainError(
            "no item has this category",
            field="train.fairness.item_categories",
            value=missing[0],
            fix=f"use one of {sorted(code)[:20]}",
        )
    rows = np.arange(len(catalogue), dtype=np.int32)
    row_X, code_X, _ = catalogue.explode(rows)
    group_I = np.full(len(catalogue), len(asked), np.int64)
    for position in reversed(range(len(asked))):
        group_I[row_X[code_X == code[asked[position]]]] = position
    return Groups((*asked, "others"), by_item_I=group_I)
