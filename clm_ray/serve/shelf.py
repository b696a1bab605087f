"""Which items may be shown, and what the shop's own rules make of an order: availability, filters, exclusions, boosts, freshness, pins, diversity.

Everything here is off until the recipe (`serve.rules`, `serve.diversity`, `serve.freshness`) or a request asks for it. Probabilities stay those of
the model: rules change the order alone, and the log says which ones did.

Shape letters: I catalogue rows, C candidates of one user, L of them not chosen yet, M of these that may come next, K items of one slate, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clm_ray.config.serve import FreshnessConfig, ServeConfig, ShopRule
from clm_ray.features.catalogue import Catalogue
from clm_ray.schema import DAY_US
from clm_ray.serve.hops import Wish
from clm_ray.serve.popular import NOTHING_POPULAR, Popular

STOCK = ["available_from", "available_until", "flags"]
"""Columns of the items table that rules look at."""
_ALWAYS_FROM, _ALWAYS_UNTIL = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Shelf:
    """The items of a release with all that rules look at. from_I, until_I: UTC µs, half-open. boost_I: sum of the boosts, in log-odds."""

    catalogue: Catalogue
    from_I: NDArray[np.int64]
    until_I: NDArray[np.int64]
    flags: Mapping[str, NDArray[np.bool_]]
    excluded_I: NDArray[np.bool_]
    boost_I: NDArray[np.float32]
    pins: tuple[tuple[int, int], ...]
    """(place from 0, row)."""
    config: ServeConfig
    popular: Popular = NOTHING_POPULAR

    @staticmethod
    def build(
        catalogue: Catalogue, stock: pa.Table | None, config: ServeConfig, *, popular: Popular = NOTHING_POPULAR
    ) -> Shelf:
        """`stock`: the columns STOCK of the catalogue's rows; None: every item is always available, without flags."""
        flags_I: dict[str, NDArray[np.bool_]] = {}
        always = np.full(len(catalogue), _ALWAYS_FROM), np.full(len(catalogue), _ALWAYS_UNTIL)
        if stock is not None:
            always = _times(stock["available_from"], _ALWAYS_FROM), _times(stock["available_until"], _ALWAYS_UNTIL)
            for row, names in enumerate(stock["flags"].to_pylist()):
                for name in names or ():
                    flags_I.setdefault(name, np.zeros(len(catalogue), bool))[row] = True
        return Shelf._ruled(catalogue, *always, flags_I, config, popular)

    @staticmethod
    def _ruled(
        catalogue: Catalogue,
        from_I: NDArray[np.int64],
        until_I: NDArray[np.int64],
        flags: Mapping[str, NDArray[np.bool_]],
        config: ServeConfig,
        popular: Popular,
    ) -> Shelf:
        excluded_I = np.arange(len(catalogue)) == 0
        excluded_I[catalogue.gone_G] = True
        boost_I = np.zeros(len(catalogue), np.float32)
        bare = Shelf(catalogue, from_I, until_I, flags, excluded_I, boost_I, (), config, popular)
        pins: list[tuple[int, int]] = []
        for rule in config.rules:
            which_I = bare._of_rule(rule)
            if rule.do == "exclude":
                excluded_I |= which_I
            elif rule.do == "boost":
                boost_I[which_I] += np.float32(np.log(rule.times))
            else:
                pins += [(rule.place - 1 + n, int(row)) for n, row in enumerate(np.flatnonzero(which_I))]
        return replace(bare, pins=tuple(sorted(pins)))

    def amended(
        self, catalogue: Catalogue, items: Mapping[int, tuple[int | None, int | None, tuple[str, ...]]]
    ) -> Shelf:
        """The shelf of a catalogue with more rows, or other ones: row → available from, until (µs), flags."""
        size = len(catalogue)
        from_I, until_I = np.full(size, _ALWAYS_FROM), np.full(size, _ALWAYS_UNTIL)
        from_I[: len(self.from_I)], until_I[: len(self.until_I)] = self.from_I, self.until_I
        names = {*self.flags, *(name for _, _, flags in items.values() for name in flags)}
        flags_I = {name: np.zeros(size, bool) for name in names}
        for name, which_I in self.flags.items():
            flags_I[name][: len(which_I)] = which_I
        for row, (begin, end, flags) in items.items():
            from_I[row] = _ALWAYS_FROM if begin is None else begin
            until_I[row] = _ALWAYS_UNTIL if end is None else end
            for name, which_I in flags_I.items():
                which_I[row] = name in flags
        return Shelf._ruled(catalogue, from_I, until_I, flags_I, self.config, self.popular)

    def _of_rule(self, rule: ShopRule) -> NDArray[np.bool_]:
        named_I = np.zeros(len(self.catalogue), bool)
        named_I[self.catalogue.rows(rule.items)] = True
        return (named_I | self.in_categories(rule.categories) | self._flagged(rule.flags)) & (
            np.arange(len(named_I)) > 0
        )

    def in_categories(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """bool_I: the item is in one of these categories."""
        codes = [n for n, name in enumerate(self.catalogue.categories) if name in set(names)]
        found_I = np.zeros(len(self.catalogue), bool)
        if codes:
            hit_E = np.isin(self.catalogue.entry_E, codes)
            row_E = np.repeat(np.arange(len(found_I)), np.diff(self.catalogue.start))
            found_I[row_E[hit_E]] = True
        return found_I

    def _flagged(self, names: Sequence[str]) -> NDArray[np.bool_]:
        none_I = np.zeros(len(self.catalogue), bool)
        return np.logical_or.reduce([none_I, *(self.flags[name] for name in names if name in self.flags)])

    def allowed(self, wish: Wish, time: int) -> NDArray[np.bool_]:
        """bool_I: may be shown at `time` (µs) to who asked for `wish`."""
        may_I = ~self.excluded_I & (self.from_I <= time) & (time < self.until_I)
        if wish.allow is not None:
            listed_I = np.zeros(len(may_I), bool)
            listed_I[wish.allow[wish.allow < len(may_I)]] = True  # rows of a newer catalogue are not here
            may_I &= listed_I
        may_I[wish.deny[wish.deny < len(may_I)]] = False
        if wish.categories is not None:
            may_I &= self.in_categories(wish.categories)
        if wish.flags:
            may_I &= self._flagged(wish.flags)
        if wish.without_categories:
            may_I &= ~self.in_categories(wish.without_categories)
        if wish.without_flags:
            may_I &= ~self._flagged(wish.without_flags)
        return may_I

    def left_of(self, row_C: NDArray[np.int32], wish: Wish, time: int) -> NDArray[np.int32]:
        """The candidates that may be shown, in their order."""
        if self.plain and wish.plain:
            return row_C
        return row_C[self.allowed(wish, time)[row_C]]

    @cached_property
    def plain(self) -> bool:
        """No item is ever left out by the shop."""
        return (
            int(self.excluded_I.sum()) == 1
            and bool((self.from_I == _ALWAYS_FROM).all())
            and bool((self.until_I == _ALWAYS_UNTIL).all())
        )

    @cached_property
    def shapes(self) -> bool:
        """Whether the shop moves items."""
        return bool(self.boost_I.any() or self.config.freshness or self.pins or self.config.diversity)

    def lift(
        self, row_C: NDArray[np.int32], time: int, *, freshness: FreshnessConfig | None = None
    ) -> NDArray[np.float32]:
        """What boosts and freshness add to the log-odds that decide the order. `freshness`: None as the shop has it."""
        freshness = freshness or self.config.freshness
        lift_C = self.boost_I[row_C].copy()
        if freshness is not None:
            known_C = self.from_I[row_C] != _ALWAYS_FROM
            age_C = np.where(known_C, (time - self.from_I[row_C]) / DAY_US, np.inf)
            young_C = 0.5 ** (np.maximum(age_C, 0.0) / freshness.half_life_days)
            lift_C += (np.log(freshness.times) * young_C).astype(np.float32)
        return lift_C

    def shaping(self, wish: Wish) -> dict[str, Any]:
        """What beside the probabilities shapes a slate, for the log; empty where nothing does."""
        said: dict[str, Any] = {}
        if not wish.plain:
            said["filters"] = wish.said
        if self.boost_I.any():
            said["boosts"] = int(np.count_nonzero(self.boost_I))
        if self.config.freshness is not None:
            said["freshness"] = [self.config.freshness.times, self.config.freshness.half_life_days]
        diversity = self.diversity_of(wish)
        if diversity:
            said["diversity"] = diversity
        if self.pins:
            said["pins"] = [self.catalogue.ids[row] for _, row in self.pins]
        return said

    def diversity_of(self, wish: Wish) -> float:
        """The request's, else the recipe's."""
        return self.config.diversity if wish.diversity is None else wish.diversity


@dataclass(frozen=True)
class Share:
    """Of the first n items at least ⌊part · n⌋ are to be of those in of_C, bool, as far as there are such candidates."""

    part: float
    of_C: NDArray[np.bool_]


def order(
    logit_C: NDArray[np.float32],
    vector_CD: NDArray[np.float32] | None,
    *,
    k: int,
    diversity: float,
    shares: Sequence[Share] = (),
) -> NDArray[np.intp]:
    """Places of the best k. With `diversity` > 0 by maximal marginal relevance (Carbonell & Goldstein, 1998): each next item maximises
    (1 - diversity) · p - diversity · (greatest cosine with an item chosen before), where p is the probability over the largest one. With `shares` the
    next item is the best of those that keep them; where that cannot be for all of them, the first ones count.
    """
    best_first = np.argsort(-logit_C, kind="stable")
    if len(logit_C) < 2 or not (shares or (diversity and vector_CD is not None)):
        return best_first[:k]
    # In this order, so that of equal gains (probabilities that round to the same, for example) the better item is taken.
    logit_C = logit_C[best_first]
    gain_C = np.exp(np.minimum(logit_C - logit_C.max(), 0.0))
    unit_CD = None
    if diversity and vector_CD is not None:
        vector_CD = vector_CD[best_first]
        unit_CD = vector_CD / np.maximum(np.linalg.norm(vector_CD, axis=1, keepdims=True), 1e-9)
        gain_C *= 1 - diversity
    shares = [Share(share.part, share.of_C[best_first]) for share in shares]
    nearest_C = np.zeros(len(gain_C), np.float32)
    left_L = np.arange(len(gain_C))
    chosen: list[int] = []
    held = [0] * len(shares)
    while len(chosen) < min(k, len(gain_C)):
        own_C = gain_C if unit_CD is None else gain_C - diversity * nearest_C
        may_M = _keeping(shares, held, left_L, place=len(chosen))
        best = int(may_M[own_C[may_M].argmax()])
        chosen.append(best)
        held = [n + int(share.of_C[best]) for n, share in zip(held, shares, strict=True)]
        left_L = left_L[left_L != best]
        if unit_CD is not None:
            nearest_C = np.maximum(nearest_C, unit_CD @ unit_CD[best])
    return best_first[chosen]


def _keeping(shares: Sequence[Share], held: Sequence[int], left_L: NDArray[np.intp], *, place: int) -> NDArray[np.intp]:
    """Those left that may come next, in their order. `held`: how many of each share come before; `place`: how many in all."""
    may_M = left_L
    for share, before in zip(shares, held, strict=True):
        if int(share.part * (place + 1) + 1e-9) > before:
            some_M = may_M[share.of_C[may_M]]
            may_M = some_M if len(some_M) else may_M
    return may_M


def pinned(row_K: NDArray[np.int32], pins: Sequence[tuple[int, int]], *, k: int) -> NDArray[np.int32]:
    """The slate with each pinned row at its place."""
    rows = [row for row in row_K.tolist() if row not in {row for _, row in pins}]
    for place, row in pins:
        if place < k:
            rows.insert(min(place, len(rows)), row)
    return np.array(rows[:k], np.int32)


def _times(column: pa.ChunkedArray, missing: int) -> NDArray[np.int64]:
    return np.array([missing if t is None else t for t in column.cast(pa.int64()).to_pylist()], np.int64)
