"""The fixed samples of test occasions, and the impressions made of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.data import ImpressionsConfig
from clm_ray.config.recipe import Recipe
from clm_ray.data.occasions import Occasion, OccasionSource
from clm_ray.schema import TEST


@dataclass(frozen=True)
class HeldOutOccasion:
    """A test moment that may be drawn into the fixed sample; `rank` is a stable hash that decides."""

    rank: int
    user_id: str
    occasion: Occasion


@dataclass(frozen=True)
class HeldOutSample:
    """The fixed samples of test occasions: those whose shown candidates are ranked, those for which the whole catalogue is."""

    shown: list[HeldOutOccasion]
    catalogue: list[HeldOutOccasion]

    def all(self) -> list[HeldOutOccasion]:
        """Every occasion of either sample, once."""
        return list({id(t): t for t in (*self.shown, *self.catalogue)}.values())


def drawn(found: list[HeldOutOccasion], config: ImpressionsConfig) -> HeldOutSample:
    """Those of smallest rank, for the catalogue of those where something was chosen: of parts drawn alike the same as of the whole."""
    ordered = sorted(found, key=lambda t: (t.rank, t.user_id, t.occasion.time))
    chosen = [t for t in ordered if len(t.occasion.chosen)]
    return HeldOutSample(ordered[: config.test_occasions], chosen[: config.catalogue_occasions])


def with_candidates(sample: HeldOutSample, recipe: Recipe, occasions: OccasionSource) -> HeldOutSample:
    """The sample with what is ranked beside the items taken, where the log does not say it row by row."""
    if recipe.impressions.negatives == "explicit":
        return sample
    shown = [replace(t, occasion=_with_candidates(t, recipe, occasions)) for t in sample.shown]
    return replace(sample, shown=shown)


def _with_candidates(test: HeldOutOccasion, recipe: Recipe, occasions: OccasionSource) -> Occasion:
    """The occasion with everything that was on offer; where the log does not say, with known items drawn evenly, among which a model does as
    well as in the whole catalogue (among popular ones a model would do well that knows nothing of popularity)."""
    o = test.occasion
    if o.slot is not None:
        return replace(o, shown_C=occasions.slots.items(o.slot))
    rng = np.random.default_rng([recipe.sequences.seed, test.rank])
    others = np.setdiff1d(occasions.popularity.known(o.time), o.taken, assume_unique=True)
    kept = min(recipe.impressions.test_negatives, len(others))
    # The probabilities are relative to `per_occasion` such negatives: beside more of them the odds are lower in proportion.
    share = kept / len(others) if kept else 1.0
    offset = float(np.log(occasions.popularity.even_share(o.time) / share))
    shown = np.concatenate([o.taken, rng.choice(others, kept, replace=False)])
    return replace(o, shown_C=shown, offset=offset)


def impression_rows(sample: HeldOutSample) -> list[dict[str, Any]]:
    """Rows of schema.IMPRESSIONS of the sampled occasions."""
    rows = []
    for test in sample.shown:
        o = test.occasion
        if o.labels_C is None and o.shown_C is not None and len(o.shown_C):
            labels = np.isin(o.shown_C, o.taken).astype(np.float32)
            rows.append(impression_row(test.user_id, o, o.shown_C, labels, kind="shown"))
    for test in sample.catalogue:
        o = test.occasion
        rows.append(impression_row(test.user_id, o, o.chosen, np.ones(len(o.chosen), np.float32), kind="catalogue"))
    return rows


def impression_row(
    user_id: str,
    occasion: Occasion,
    items: NDArray[np.int32],
    labels: NDArray[np.float32],
    *,
    kind: str,
) -> dict[str, Any]:
    """One row of schema.IMPRESSIONS (test split)."""
    return {
        "user_id": user_id,
        "time": occasion.time,
        "kind": kind,
        "item": items.astype(np.int32),
        "label": labels.astype(np.float32),
        "weight": np.full(len(items), occasion.weight, np.float32),
        "offset": occasion.offset,
        "split": TEST,
    }


def sample_digest(sample: list[HeldOutOccasion]) -> dict[str, Any]:
    """How many occasions a sample has, and a digest of which."""
    text = "\n".join(f"{t.user_id}\t{t.occasion.time}\t{t.occasion.kind}" for t in sample)
    return {"count": len(sample), "digest": hashlib.sha256(text.encode()).hexdigest()}
