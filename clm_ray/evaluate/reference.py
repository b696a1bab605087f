"""The scores that a release is expected to give: what its model says about moments of its own dataset, through the one scoring path.

Kept in the release and set beside what it scores when it serves (`serve.drift`). Two kinds, since they are two populations: `given`, the
candidates of the moments themselves (a sampled negative counts for all that it stands for), and `retrieved`, what the
model retrieves from the whole catalogue at these moments.

Shape letters: P candidates of one moment.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from clm_ray.evaluate.dataset import Case, Dataset
from clm_ray.metrics.scores import Counts, ScoreReference, count_scores
from clm_ray.model.inference import Scorer, UserRequest
from clm_ray.schema import SPLITS, TRAIN, VALID

MOMENTS = 256
"""Moments that are scored: 256 with 500 retrieved candidates are 128,000 scores."""
_NEWEST = 0.1
"""Without a validation split: the newest share of the training moments."""
_AT_ONCE = 32

Moment = tuple[Case, int]
"""A user, and which of the moments in `shown`."""


def score_reference(
    dataset: Dataset, scorer: Scorer, *, moments: int = MOMENTS, seed: int = 0
) -> ScoreReference | None:
    """Score `moments` moments of the validation split, drawn at random; of a dataset without one (`split.refit`), of the newest
    tenth of its training moments. None where there are no moments at all.
    """
    for split in (VALID, TRAIN):
        found = _some(dataset, split=split, least=4 * moments)
        if found:
            if split == TRAIN:
                time_M = np.array([case.shown.time_Q[q] for case, q in found])
                found = [found[m] for m in np.flatnonzero(time_M >= np.quantile(time_M, 1 - _NEWEST))]
            order = np.random.default_rng(seed).permutation(len(found))[:moments]
            return _scored(scorer, [found[m] for m in sorted(order)], split=SPLITS[split])
    return None


def _some(dataset: Dataset, *, split: int, least: int) -> list[Moment]:
    """All moments of as many buckets as give `least` of them: a bucket is a random sample of the users."""
    found: list[Moment] = []
    for bucket in dataset.buckets:
        found += [
            (case, q) for case in dataset.target_cases(bucket, split=split) for q in range(len(case.shown.time_Q))
        ]
        if len(found) >= least:
            break
    return found


def _scored(scorer: Scorer, moments: list[Moment], *, split: str) -> ScoreReference:
    counts: dict[str, Counts] = {}
    for kind, probability_P, weight_P in _scores(scorer, moments):
        added = count_scores(probability_P, weight=weight_P)
        counts[kind] = counts.get(kind, np.zeros_like(added)) + added
    return ScoreReference(split, len(moments), counts)


def _scores(
    scorer: Scorer, moments: list[Moment]
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32] | None]]:
    for first in range(0, len(moments), _AT_ONCE):
        part = moments[first : first + _AT_ONCE]
        states = scorer.states([UserRequest(case.user_id, case.history, int(case.shown.time_Q[q])) for case, q in part])
        given = [case.shown.items(q) for case, q in part]
        for (case, q), probability_P in zip(part, scorer.click(states, given), strict=True):
            cut = slice(case.shown.start_Q[q], case.shown.start_Q[q + 1])
            stands_for_P = np.where(case.shown.label_P[cut] > 0, 1.0, np.exp(case.shown.offset_P[cut]))
            yield "given", probability_P, (case.shown.weight_P[cut] * stands_for_P).astype(np.float32)
        retrieved = scorer.retrieve(states, count=scorer.recipe.serve.retrieve)
        for probability_P in scorer.click(states, retrieved):
            yield "retrieved", probability_P, None
