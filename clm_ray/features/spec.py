"""The feature specification: which dense features a dataset has, which of them the model gets, and how they are scaled.

Written by prepare as features.json, read by training and serving: the one place where offline and online agree.

Shape letters: Q queries, F all features, S selected features.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.features.asked import Asked, Joined
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History, reach_of
from clm_ray.features.neighbours import NEIGHBOUR_FEATURES, NO_NEIGHBOURS, ItemNeighbours, neighbour_features
from clm_ray.features.pair import PAIR_FEATURES, pair_features
from clm_ray.features.statistics import ItemStatistics
from clm_ray.features.tokens import residuals, surprises
from clm_ray.features.user import CUMULATIVE, user_feature_names, user_features


@dataclass(frozen=True)
class Selection:
    """The chosen columns of one feature block. `dropped`: name → reason. mean and scale belong to the chosen ones."""

    names: tuple[str, ...]
    chosen: tuple[str, ...]
    dropped: Mapping[str, str]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def apply(self, dense_QF: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [Q, S]: chosen columns, standardised, cut at ±5."""
        where = [self.names.index(name) for name in self.chosen]
        scaled = (dense_QF[:, where] - np.array(self.mean, np.float32)) / np.array(self.scale, np.float32)
        return np.clip(scaled, -5.0, 5.0).astype(np.float32)

    def without(self, prefixes: tuple[str, ...]) -> Selection:
        """The selection without the columns whose name begins with one of `prefixes`."""
        return self.less([name for name in self.chosen if name.startswith(prefixes)], reason="left out (model.without)")

    def less(self, names: Collection[str], *, reason: str) -> Selection:
        """The selection without these columns."""
        keep = [n for n, name in enumerate(self.chosen) if name not in names]
        return Selection(
            self.names,
            tuple(self.chosen[n] for n in keep),
            {**self.dropped, **{name: reason for name in self.chosen if name in names}},
            tuple(self.mean[n] for n in keep),
            tuple(self.scale[n] for n in keep),
        )

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Selection:
        """Inverse of `asdict`."""
        return Selection(
            names=tuple(raw["names"]),
            chosen=tuple(raw["chosen"]),
            dropped=dict(raw["dropped"]),
            mean=tuple(raw["mean"]),
            scale=tuple(raw["scale"]),
        )


def click_feature_names(recipe: Recipe) -> tuple[str, ...]:
    """All dense features of a click target."""
    return (*user_feature_names(recipe.features.windows_days), *PAIR_FEATURES, *NEIGHBOUR_FEATURES)


def retention_feature_names(recipe: Recipe) -> tuple[str, ...]:
    """All dense features of a retention reference."""
    return user_feature_names(recipe.features.windows_days)


@dataclass(frozen=True)
class FeatureSpec:
    """Selections of both blocks; the event vocabulary and the windows come from the recipe stored beside it."""

    click: Selection
    retention: Selection

    def without(self, prefixes: tuple[str, ...]) -> FeatureSpec:
        """Both selections without the columns whose name begins with one of `prefixes`."""
        return FeatureSpec(self.click.without(prefixes), self.retention.without(prefixes))

    def stationary(self) -> FeatureSpec:
        """The retention block without what only ever grows (`user.CUMULATIVE`)."""
        return FeatureSpec(
            self.click, self.retention.less(CUMULATIVE, reason="only grows (model.retention_cumulative)")
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> FeatureSpec:
        """Inverse of `to_dict`."""
        return FeatureSpec(Selection.from_dict(raw["click"]), Selection.from_dict(raw["retention"]))


@dataclass(frozen=True)
class FeatureSource:
    """Everything beside the history that features are computed from: one object offline and online."""

    recipe: Recipe
    vocabulary: EventVocabulary
    catalogue: Catalogue
    statistics: ItemStatistics
    neighbours: ItemNeighbours = NO_NEIGHBOURS

    def surprises(self, history: History) -> NDArray[np.float32]:
        """float32_N: see tokens.surprises."""
        prior = self.recipe.features.prior_strength
        return surprises(Joined.of([history]), statistics=self.statistics, vocabulary=self.vocabulary, prior=prior)

    def residuals(self, history: History) -> NDArray[np.float32]:
        """float32_N: see tokens.residuals."""
        prior = self.recipe.features.prior_strength
        return residuals(history, statistics=self.statistics, vocabulary=self.vocabulary, prior=prior)

    def retention(self, history: History, time_Q: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [Q, F] in the order of `retention_feature_names`."""
        dense = np.empty((len(time_Q), len(retention_feature_names(self.recipe))), np.float32)
        for part, at in self._reach(history, time_Q):
            dense[at] = self._user(Asked.one(part, time_Q[at]))
        return dense

    def click(self, history: History, item_Q: NDArray[np.int32], time_Q: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [Q, F] in the order of `click_feature_names`."""
        dense = np.empty((len(time_Q), len(click_feature_names(self.recipe))), np.float32)
        for part, at in self._reach(history, time_Q):
            moments, where = np.unique(time_Q[at], return_inverse=True)
            asked = Asked.one(part, moments)
            dense[at] = self._click(asked, where, item_Q[at])
        return dense

    def retention_of(self, histories: Sequence[History], time_B: NDArray[np.int64]) -> NDArray[np.float32]:
        """`retention` of many users at once, one moment each; their histories hold what is within reach of it and no more."""
        return self._user(Asked.of(Joined.of(histories), np.arange(len(time_B)), time_B))

    def click_of(
        self, histories: Sequence[History], time_B: NDArray[np.int64], items: Sequence[NDArray[np.int32]]
    ) -> NDArray[np.float32]:
        """`click` of many users at once, one after the other, each with their own items at one moment; histories as for `retention_of`."""
        asked = Asked.of(Joined.of(histories), np.arange(len(time_B)), time_B)
        where = np.repeat(np.arange(len(items)), [len(rows) for rows in items])
        return self._click(asked, where, np.concatenate([np.empty(0, np.int32), *items]))

    def click_of_users(
        self, histories: Sequence[History], items: Sequence[NDArray[np.int32]], times: Sequence[NDArray[np.int64]]
    ) -> list[NDArray[np.float32]]:
        """`click` of each user with questions of their own (their times rising): the same to the last bit, in less time."""

        def answer(asked: Asked, moment_Q: NDArray[np.int64], which: Sequence[int]) -> NDArray[np.float32]:
            return self._click(asked, moment_Q, np.concatenate([items[b] for b in which]))

        return self._of_users(histories, times, answer, alone=lambda b: self.click(histories[b], items[b], times[b]))

    def retention_of_users(
        self, histories: Sequence[History], times: Sequence[NDArray[np.int64]]
    ) -> list[NDArray[np.float32]]:
        """`retention` of each user at moments of their own (rising): the same to the last bit, in less time."""

        def answer(asked: Asked, moment_Q: NDArray[np.int64], _: Sequence[int]) -> NDArray[np.float32]:
            return self._user(asked)[moment_Q]

        return self._of_users(histories, times, answer, alone=lambda b: self.retention(histories[b], times[b]))

    def _of_users(
        self,
        histories: Sequence[History],
        times: Sequence[NDArray[np.int64]],
        answer: Callable[[Asked, NDArray[np.int64], Sequence[int]], NDArray[np.float32]],
        *,
        alone: Callable[[int], NDArray[np.float32]],
    ) -> list[NDArray[np.float32]]:
        """`answer` is asked about users whose whole history is within reach; of the others each is asked `alone`."""
        counted = [history.select(self.vocabulary.counts(history)) for history in histories]
        short = [len(history) <= self.recipe.features.max_history for history in counted]
        together = [b for b, fits in enumerate(short) if fits]
        found = [np.empty((0, 0), np.float32) if fits else alone(b) for b, fits in enumerate(short)]
        if not together:
            return found
        counts = [len(times[b]) for b in together]
        owner_Q, time_Q = np.repeat(np.arange(len(together)), counts), np.concatenate([times[b] for b in together])
        fresh_Q = np.ones(len(time_Q), bool)
        fresh_Q[1:] = (owner_Q[1:] != owner_Q[:-1]) | (time_Q[1:] != time_Q[:-1])
        asked = Asked.of(Joined.of([counted[b] for b in together]), owner_Q[fresh_Q], time_Q[fresh_Q])
        dense_QF = answer(asked, np.cumsum(fresh_Q) - 1, together)
        for b, mine in zip(together, np.split(dense_QF, np.cumsum(counts)[:-1]), strict=True):
            found[b] = mine
        return found

    def _reach(self, history: History, time_Q: NDArray[np.int64]) -> Iterator[tuple[History, slice | NDArray[np.intp]]]:
        """(the part of the history that features may look at, the queries it is for); see `History.within_reach`.

        Events without a role are not looked at: the endpoint does not know of its slates until they come back with the log.
        """
        history = history.select(self.vocabulary.counts(history))
        reach = self.recipe.features.max_history
        if len(history) <= reach:
            yield history, slice(None)
            return
        start_Q = reach_of(history.time_N, time_Q, reach)
        order = np.argsort(start_Q, kind="stable")
        for at in np.split(order, np.flatnonzero(np.diff(start_Q[order])) + 1) if len(order) else ():
            stop = np.searchsorted(history.time_N, time_Q[at].max(), side="left")
            yield history.slice(int(start_Q[at[0]]), int(stop)), at

    def _user(self, asked: Asked) -> NDArray[np.float32]:
        return user_features(
            asked,
            vocabulary=self.vocabulary,
            residual_N=self.residuals(asked.history),
            windows_days=self.recipe.features.windows_days,
            prior=self.recipe.features.prior_strength,
        )

    def _click(self, moments: Asked, where_Q: NDArray[np.int64], item_Q: NDArray[np.int32]) -> NDArray[np.float32]:
        """Each item at the moment to which `where_Q` points: a user's own features are computed once per moment."""
        prior = self.recipe.features.prior_strength
        surprise_N = surprises(moments.joined, statistics=self.statistics, vocabulary=self.vocabulary, prior=prior)
        asked = moments.take(where_Q)
        pair = pair_features(
            asked,
            item_Q,
            catalogue=self.catalogue,
            statistics=self.statistics,
            vocabulary=self.vocabulary,
            residual_N=self.residuals(asked.history),
            surprise_N=surprise_N,
            prior=prior,
        )
        near = neighbour_features(
            asked, item_Q, neighbours=self.neighbours, vocabulary=self.vocabulary, surprise_N=surprise_N
        )
        return np.concatenate([self._user(moments)[where_Q], pair, near], axis=1)
