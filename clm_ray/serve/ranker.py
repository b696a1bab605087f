"""Ranker: candidates retrieved where none are given, click probabilities, the best k; a batch at a time.

Shape letters: C candidates of one user, K items of one slate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clm_ray.model.inference import Scorer, UserState, own_items
from clm_ray.serve.drift import ScoreWatch
from clm_ray.serve.hops import ANYTHING, RankBatch, Ranked, Wish
from clm_ray.serve.opened import Opened
from clm_ray.serve.profiler import states_of
from clm_ray.serve.shelf import Shelf, order, pinned

_NONE: NDArray[np.int32] = np.empty(0, np.int32)


@dataclass(frozen=True)
class RankerRelease:
    """What the ranker needs of a release."""

    scorer: Scorer
    shelf: Shelf


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
        release = self._releases.get(batch.release)
        if _news(release.scorer, batch):
            release = self._releases.get(batch.release, every_s=0.0)
        states = states_of(batch.states)
        wishes = batch.wishes or [ANYTHING] * len(states)
        rows = _candidates(release, states, batch, wishes)
        scores = release.scorer.click_logits(states, rows)
        if self._watch is not None:
            given = [row_C is not None for row_C in batch.rows]
            self._watch.add(batch.release, scores=[_probability(logit_C) for logit_C in scores], given=given)
        never = batch.forbidden or [_NONE] * len(states)
        return [
            slate(release, state, row_C, logit_C, k=k, wish=wish, forbidden=row_F)
            for state, row_C, logit_C, k, wish, row_F in zip(states, rows, scores, batch.k, wishes, never, strict=True)
        ]


def slate(
    release: RankerRelease,
    state: UserState,
    row_C: NDArray[np.int32],
    logit_C: NDArray[np.float32],
    *,
    k: int,
    wish: Wish,
    forbidden: NDArray[np.int32] = _NONE,
) -> Ranked:
    """The k best as the shop's rules and the request would have them; without either those with the highest probability, equal ones in the order
    of the catalogue, so that the same request has one answer."""
    scorer, shelf = release.scorer, release.shelf
    in_order_C = np.lexsort((row_C, -logit_C))
    row_C, logit_C = row_C[in_order_C], logit_C[in_order_C]
    diversity = shelf.diversity_of(wish)
    if not shelf.shapes and not diversity:
        row_K, logit_K = row_C[:k], logit_C[:k]
    else:
        lifted_C = logit_C + shelf.lift(row_C, state.time)
        vectors = scorer.item_vectors(row_C) if diversity else None
        chosen_K = order(lifted_C, vectors, k=k, diversity=diversity)
        row_K = pinned(row_C[chosen_K], _pins(shelf, wish, state.time, forbidden), k=k)
        logit_K = _logits(scorer, state, row_K, dict(zip(row_C.tolist(), logit_C.tolist(), strict=True)))
    return Ranked(row_K, _probability(logit_K), shelf.shaping(wish))


def _news(scorer: Scorer, batch: RankBatch) -> bool:
    """Whether the gateway knows of an item that is newer than our last look at the store."""
    given = [rows for rows in batch.rows if rows is not None]
    if any(rows.max(initial=0) >= len(scorer.items) for rows in given):
        return True
    gone_G = scorer.items.gone_G
    return len(gone_G) > 0 and any(np.isin(rows, gone_G).any() for rows in given)


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


def _logits(scorer: Scorer, state: UserState, row_K: NDArray[np.int32], known: dict[int, float]) -> NDArray[np.float32]:
    """Of the rows of a slate; a pinned one may not have been among the candidates."""
    missing = np.array([row for row in row_K.tolist() if row not in known], np.int32)
    if len(missing):
        known = known | dict(zip(missing.tolist(), scorer.click_logits([state], [missing])[0].tolist(), strict=True))
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
    every = [retrieved[place] if rows is None else rows for place, rows in enumerate(batch.rows)]
    return [
        rows[~np.isin(rows, own_items(state.history, vocabulary=scorer.vocabulary))] if wish.without_chosen else rows
        for rows, state, wish in zip(every, states, wishes, strict=True)
    ]
