"""The fixed samples of test occasions, and the impressions made of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clm_ray.config.recipe import Recipe
from clm_ray.data.bucket import BucketResult, HeldOutOccasion, impression_row, may_be_drawn
from clm_ray.data.occasions import Occasion, OccasionSource


@dataclass(frozen=True)
class TestSample:
    """The fixed samples of test occasions: those whose shown candidates are ranked, those for which the whole catalogue is."""

    shown: list[HeldOutOccasion]
    catalogue: list[HeldOutOccasion]


def draw_test_sample(results: list[BucketResult], recipe: Recipe, occasions: OccasionSource) -> TestSample:
    """The test occasions with the smallest stable hash."""
    config = recipe.impressions
    found = may_be_drawn([t for r in results for t in r.test_occasions], config)
    shown = found[: config.test_occasions]
    if config.negatives != "explicit":
        shown = [replace(t, occasion=_with_candidates(t, recipe, occasions)) for t in shown]
    return TestSample(shown, [t for t in found if len(t.occasion.chosen)][: config.catalogue_occasions])


def _with_candidates(test: HeldOutOccasion, recipe: Recipe, occasions: OccasionSource) -> Occasion:
    """The occasion with everything that was on offer, or with popular items drawn where the log does not say."""
    o = test.occasion
    if o.slot is not None:
        return replace(o, shown_C=occasions.slots.items(o.slot))
    rng = np.random.default_rng([recipe.sequences.seed, test.rank])
    others = occasions.drawn(o, count=recipe.impressions.test_negatives, rng=rng)
    return replace(o, shown_C=np.concatenate([o.taken, others]))


def impression_rows(results: list[BucketResult], sample: TestSample, recipe: Recipe) -> list[dict[str, Any]]:
    """Rows of schema.IMPRESSIONS of all buckets."""
    rows: list[dict[str, Any]] = [row for r in results for row in r.impressions]
    for test in sample.shown:
        o = test.occasion
        if o.labels_C is None and o.shown_C is not None and len(o.shown_C):
            labels = np.isin(o.shown_C, o.taken).astype(np.float32)
            offset = _offset(o, recipe)
            rows.append(impression_row(test.user_id, o, o.shown_C, labels, kind="shown", offset=offset))
    for test in sample.catalogue:
        o = test.occasion
        rows.append(impression_row(test.user_id, o, o.chosen, np.ones(len(o.chosen), np.float32), kind="catalogue"))
    return rows


def _offset(occasion: Occasion, recipe: Recipe) -> float:
    """The probabilities are relative to `per_occasion` popular negatives; a test occasion with more has lower odds in proportion."""
    drawn = 0 if occasion.shown_C is None else len(occasion.shown_C) - len(occasion.taken)
    if occasion.kind != "popularity" or drawn <= recipe.impressions.per_occasion:
        return 0.0
    return float(np.log(recipe.impressions.per_occasion / drawn))


def sample_digest(sample: list[HeldOutOccasion]) -> dict[str, Any]:
    text = "\n".join(f"{t.user_id}\t{t.occasion.time}\t{t.occasion.kind}" for t in sample)
    return {"count": len(sample), "digest": hashlib.sha256(text.encode()).hexdigest()}
