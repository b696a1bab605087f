"""Ranker: candidates retrieved where none are given, click probabilities, the best k; a batch at a time.

Shape letters: C candidates of one user, K items of one slate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from clm_ray.model.inference import Scorer, UserState
from clm_ray.serve.drift import ScoreWatch
from clm_ray.serve.hops import RankBatch, Ranked
from clm_ray.serve.opened import Opened
from clm_ray.serve.profiler import states_of


class Ranker:
    """Answers `RankBatch`es; the model runs in a thread of its own."""

    def __init__(self, *, releases: Opened[Scorer], watch: ScoreWatch | None = None) -> None:
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
        scorer = self._releases.get(batch.release)
        if _news(scorer, batch):
            scorer = self._releases.get(batch.release, every_s=0.0)
        states = states_of(batch.states)
        rows = _candidates(scorer, states, batch)
        scores = scorer.click(states, rows)
        if self._watch is not None:
            self._watch.add(batch.release, scores=scores, given=[row_C is not None for row_C in batch.rows])
        return [best(row_C, score_C, k=k) for row_C, score_C, k in zip(rows, scores, batch.k, strict=True)]


def best(row_C: NDArray[np.int32], probability_C: NDArray[np.float32], *, k: int) -> Ranked:
    """The k most probable, best first; equal ones in the order of the catalogue, so that the same request has one answer."""
    order_K = np.lexsort((row_C, -probability_C))[:k]
    return Ranked(row_C[order_K], probability_C[order_K])


def _news(scorer: Scorer, batch: RankBatch) -> bool:
    """Whether the gateway knows of an item that is newer than our last look at the store."""
    given = [rows for rows in batch.rows if rows is not None]
    if any(rows.max(initial=0) >= len(scorer.items) for rows in given):
        return True
    gone_G = scorer.items.gone_G
    return len(gone_G) > 0 and any(np.isin(rows, gone_G).any() for rows in given)


def _candidates(scorer: Scorer, states: Sequence[UserState], batch: RankBatch) -> list[NDArray[np.int32]]:
    missing = [place for place, rows in enumerate(batch.rows) if rows is None]
    if not missing:
        return [rows for rows in batch.rows if rows is not None]
    count = max(scorer.recipe.serve.retrieve, max(batch.k[place] for place in missing))
    most = count + max((len(row_F) for row_F in batch.forbidden), default=0)  # so that enough are left
    retrieved = dict(zip(missing, scorer.retrieve([states[place] for place in missing], count=most), strict=True))
    for place in missing if batch.forbidden else ():
        row_C = retrieved[place]
        retrieved[place] = row_C[~np.isin(row_C, batch.forbidden[place])][:count]
    return [retrieved[place] if rows is None else rows for place, rows in enumerate(batch.rows)]
