"""What all buckets together say for the manifest: base rates by split, scales of ratings and spend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clm_ray.config.recipe import Recipe
from clm_ray.data.bucket_result import BucketResult


def base_rates(results: Sequence[BucketResult], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Targets and positives of each split; `rows`: of schema.IMPRESSIONS, which are test and in no bucket's result."""
    rates: dict[str, Any] = {}
    for split in ("train", "valid"):
        sums = np.sum([r.rates.get(split, [0.0, 0.0, 0.0]) for r in results], axis=0)
        targets, positives, offsets = (float(x) for x in sums)
        rates[split] = {
            "targets": int(targets),
            "positives": int(positives),
            "rate": positives / targets if targets else None,
            "mean_offset": offsets / targets if targets else 0.0,
        }
    shown = [row for row in rows if row["kind"] == "shown"]
    logged = np.sum([r.rates.get("test", [0.0, 0.0, 0.0]) for r in results], axis=0)
    count = int(logged[0]) + sum(len(row["item"]) for row in shown)
    liked = float(logged[1]) + sum(float(row["label"].sum()) for row in shown)
    rates["test"] = {"targets": count, "positives": int(liked), "rate": liked / count if count else None}
    return rates


def scales(results: Sequence[BucketResult]) -> dict[str, Any]:
    """Mean and spread of the train targets' ratings and of log spend; None where there are none."""
    found: dict[str, Any] = {}
    for name in ("rating", "log_value"):
        count, total, squares = np.sum([r.moments.get(name, np.zeros(3)) for r in results], axis=0)
        mean = total / max(count, 1.0)
        spread = np.sqrt(max(squares / max(count, 1.0) - mean**2, 0.0))
        # Sums of the buckets come in any order: digits that depend on it are cut.
        found[name] = {"mean": round(float(mean), 6), "spread": round(float(spread), 6)} if count else None
    return found


def probability_correction(recipe: Recipe) -> str:
    """How the sampling of negatives is made up for, in words for the manifest."""
    if recipe.impressions.negatives == "explicit":
        return "none needed: negatives are logged"
    if recipe.impressions.negatives == "availability":
        return "logit offset -log(kept share of the negatives), in training only; probabilities are per item on offer"
    return (
        "logit offset log(even share / share of the draws) of each item, in training only; probabilities are relative to "
        f"{recipe.impressions.per_occasion} negatives per occasion, drawn evenly of the known items; test occasions have more, "
        "and a logit offset that says so"
    )
