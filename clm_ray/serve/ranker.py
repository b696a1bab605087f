"""Ranker: candidates retrieved where none are given, click probabilities, the best k; a batch at a time.

Shape letters: C candidates of one user, K items of one slate, H items of a history, I catalogue rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.serve import FreshnessConfig
from clm_ray.config.stages import STAGES, Stage
from clm_ray.config.strategy import StageStrategy
from clm_ray.model.inference import Scorer, UserState
from clm_ray.model.retrieval import own_items
from clm_ray.serve.drift import ScoreWatch
from clm_ray.serve.hops import ANYTHING, RankBatch, Ranked, Wish
from clm_ray.serve.near import NearCategories
from clm_ray.serve.opened import Opened
from clm_ray.serve.profiler import states_of
from clm_ray.serve.shelf import Share, Shelf, order, pinned

_NONE: NDArray[np.int32] = np.empty(0, np.int32)


@dataclass(frozen=True)
class RankerRelease:
    """What the ranker needs of a release."""

    scorer: Scorer
    shelf: Shelf
    near: NearCategories | None = None
    """Of the catalogue as it was published; None: no strategy asks for what is adjacent."""

    @cached_property
    def options(self) -> dict[Stage, dict[str, Any]]:
        """What the strategy of each stage sets, as plain data; empty where there is none."""
        strategy = self.scorer.recipe.strategy
        return {stage: strategy.of(stage).options() for stage in STAGES} if strategy.enabled else {}

    @staticmethod
    def of(scorer: Scorer, shelf: Shelf) -> RankerRelease:
        """With the categories that lie next to each other, where a strategy asks for what is adjacent."""
        strategy = scorer.recipe.strategy
        if not strategy.enabled or not any(strategy.of(stage).adjacent_share for stage in STAGES):
            return RankerRelease(scorer, shelf)
        near = NearCategories.of(scorer.items, scorer.item_vectors, most=strategy.near_categories)
        return RankerRelease(scorer, shelf, near)


class Ranker:
    """Answers `RankBatch`es; the model runs in a thread of its own."""

    def __init__(self, *, releases: Opened[RankerRelease], watch: ScoreWatch | None = None) -> None:
        """`watch`: sees the scores; None: nobody does."""
        self._releases = releases
        self._watch = watch
        self._model = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ranker-model")

    async def loaded(self) -> str:
        """The release this replica was started with."""
        return self._releases.release

    async def rank(self, batch: RankBatch) -> list[Ranked]:
        """One slate per user, in the order of the batch."""
        return await asyncio.get_running_loop().run_in_executor(self._model, self._rank, batch)

    def _rank(self, batch: RankBatch) -> list[Ranked]:
        release, states = self._releases.get(batch.release), states_of(batch.states)
        if _news(release.scorer, batch, states):
            release = self._releases.get(batch.release, every_s=0.0)
            states = [_known(state, items=len(release.scorer.items)) for state in states]
        wishes = batch.wishes or [ANYTHING] * len(states)
        rows = _candidates(release, states, batch, wishes)
        scores = release.scorer.click_logits(states, rows)
        if self._watch is not None:
            given = [row_C is not None for row_C in batch.rows]
            self._watch.add(batch.release, scores=[_probability(logit_C) for logit_C in scores], given=given)
        never = batch.forbidden or [_NONE] * len(states)
        stages = batch.stages or [None] * len(states)
        return [
            slate(release, state, row_C, logit_C, k=k, wish=wish, forbidden=row_F, stage=stage)
            for state, row_C, logit_C, k, wish, row_F, stage in zip(
                states, rows, scores, batch.k, wishes, never, stages, strict=True
            )
        ]


@dataclass(frozen=True)
class Candidates:
    """Of one user, best first; equal ones in the order of the catalogue, so that the same request has one answer."""

    state: UserState
    row_C: NDArray[np.int32]
    logit_C: NDArray[np.float32]


def slate(
    release: RankerRelease,
    state: UserState,
    row_C: NDArray[np.int32],
    logit_C: NDArray[np.float32],
    *,
    k: int,
    wish: Wish,
    forbidden: NDArray[np.int32] = _NONE,
    stage: Stage | None = None,
) -> Ranked:
    """The k best as the shop's rules, the stage's strategy and the request would have them; without any of these those with the highest
    probability. `stage`: whose strategy; None for none."""
    scorer, shelf = release.scorer, release.shelf
    in_order_C = np.lexsort((row_C, -logit_C))
    given = Candidates(state, row_C[in_order_C], logit_C[in_order_C])
    pins = _pins(shelf, wish, state.time, forbidden)
    row_K = _arranged(release, given, k=k, pins=pins, diversity=shelf.diversity_of(wish))
    if stage is None or not release.options:
        return Ranked(row_K, _probability(_logits(scorer, given, row_K)), shelf.shaping(wish))
    usual_K, strategy, options = row_K, scorer.recipe.strategy.of(stage), release.options[stage]
    if options:
        wish = replace(wish, diversity=strategy.diversity if wish.diversity is None else wish.diversity)
        row_K = _arranged(
            release,
            given,
            k=k,
            pins=pins,
            diversity=shelf.diversity_of(wish),
            shares=_shares(release, given, strategy, stage),
            freshness=strategy.freshness,
        )
    brought_K = (row_K[:, None] != usual_K).all(axis=1)
    said = options | {"name": strategy.name, "stage": stage, "brought_in": int(brought_K.sum())}
    shaping = shelf.shaping(wish) | {"strategy": said}
    return Ranked(row_K, _probability(_logits(scorer, given, row_K)), shaping, brought_K)


def _arranged(
    release: RankerRelease,
    given: Candidates,
    *,
    k: int,
    pins: list[tuple[int, int]],
    diversity: float,
    shares: Sequence[Share] = (),
    freshness: FreshnessConfig | None = None,
) -> NDArray[np.int32]:
    """Rows of the slate. `shares`, `freshness`: what a strategy adds."""
    shelf = release.shelf
    if not (shelf.shapes or diversity or shares or freshness):
        return given.row_C[:k]
    lifted_C = given.logit_C + shelf.lift(given.row_C, given.state.time, freshness=freshness)
    vectors = release.scorer.item_vectors(given.row_C) if diversity else None
    chosen_K = order(lifted_C, vectors, k=k, diversity=diversity, shares=shares)
    return pinned(given.row_C[chosen_K], pins, k=k)


def _shares(release: RankerRelease, given: Candidates, strategy: StageStrategy, stage: Stage) -> list[Share]:
    """What the strategy wants some of, and which candidates are that."""
    scorer, shares = release.scorer, []
    if strategy.popular_share:
        popular_I = release.shelf.popular.rows(stage)[: scorer.recipe.strategy.popular_items]
        shares.append(Share(strategy.popular_share, np.isin(given.row_C, popular_I)))
    if strategy.adjacent_share and release.near is not None:
        history = given.state.history
        chosen_H = history.item_N[scorer.vocabulary.labels(history) == 1]
        adjacent_C = release.near.adjacent(given.row_C, chosen_H=chosen_H, catalogue=scorer.items)
        shares.append(Share(strategy.adjacent_share, adjacent_C))
    return shares


def _news(scorer: Scorer, batch: RankBatch, states: Sequence[UserState]) -> bool:
    """Whether gateway or profiler knows of an item that is newer than our last look at the store."""
    offered = [rows for rows in (*batch.rows, *(wish.allow for wish in batch.wishes)) if rows is not None]
    named = [*offered, *(wish.deny for wish in batch.wishes), *(state.history.item_N for state in states)]
    if any(rows.max(initial=0) >= len(scorer.items) for rows in named):
        return True
    gone_G = scorer.items.gone_G
    return len(gone_G) > 0 and any(np.isin(rows, gone_G).any() for rows in offered)


def _known(state: UserState, *, items: int) -> UserState:
    """The state of who has had to do with items that are not here either: to us they are unknown."""
    return replace(state, history=state.history.of_first(items))


def _probability(logit: NDArray[np.float32]) -> NDArray[np.float32]:
    return (1.0 / (1.0 + np.exp(-logit.astype(np.float64)))).astype(np.float32)


def _allowed(shelf: Shelf, wish: Wish, time: int, forbidden: NDArray[np.int32]) -> NDArray[np.bool_] | None:
    """bool_I: may be shown; None: everything may."""
    if shelf.plain and wish.plain and not len(forbidden):
        return None
    may_I = shelf.allowed(wish, time)
    may_I[forbidden[forbidden < len(may_I)]] = False
    return may_I


def _pins(shelf: Shelf, wish: Wish, time: int, forbidden: NDArray[np.int32]) -> list[tuple[int, int]]:
    """The pins that may be shown."""
    if not shelf.pins:
        return []
    may_I = _allowed(shelf, wish, time, forbidden)
    return [(place, row) for place, row in shelf.pins if may_I is None or may_I[row]]


def _logits(scorer: Scorer, given: Candidates, row_K: NDArray[np.int32]) -> NDArray[np.float32]:
    """Of the rows of a slate; a pinned one may not have been among the candidates."""
    if np.array_equal(row_K, given.row_C[: len(row_K)]):
        return given.logit_C[: len(row_K)]
    known = dict(zip(given.row_C.tolist(), given.logit_C.tolist(), strict=True))
    missing = np.array([row for row in row_K.tolist() if row not in known], np.int32)
    if len(missing):
        known |= dict(zip(missing.tolist(), scorer.click_logits([given.state], [missing])[0].tolist(), strict=True))
    return np.array([known[row] for row in row_K.tolist()], np.float32)


def _candidates(
    release: RankerRelease, states: Sequence[UserState], batch: RankBatch, wishes: Sequence[Wish]
) -> list[NDArray[np.int32]]:
    scorer, shelf = release.scorer, release.shelf
    missing = [place for place, rows in enumerate(batch.rows) if rows is None]
    retrieved: dict[int, NDArray[np.int32]] = {}
    if missing:
        count = max(scorer.recipe.serve.retrieve, max(batch.k[place] for place in missing))
        may = [
            _allowed(shelf, wishes[place], states[place].time, batch.forbidden[place] if batch.forbidden else _NONE)
            for place in missing
        ]
        found = scorer.retrieve([states[place] for place in missing], count=count, allowed=may)
        retrieved = dict(zip(missing, found, strict=True))
    # A candidate that is newer, and that the store did not tell us of, costs itself and nobody else.
    size = len(scorer.items)
    every = [retrieved[place] if rows is None else rows[rows < size] for place, rows in enumerate(batch.rows)]
    return [
        rows[~np.isin(rows, own_items(state.history, vocabulary=scorer.vocabulary))] if wish.without_chosen else rows
        for rows, state, wish in zip(every, states, wishes, strict=True)
    ]
