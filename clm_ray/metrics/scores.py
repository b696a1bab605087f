"""Click probabilities as counts on fixed bins, so that those of today can be set beside those of a release's reference.

Bins are of equal width on the logit scale. Shape letters: N scores, B bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clm_ray.metrics.drift import equal_groups, stability_index

Counts = NDArray[np.float64]

EDGES: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.arange(-14.0, 8.25, 0.25)))
"""Probabilities between the bins: logits -14 to 8 in steps of a quarter; the first and the last bin are open."""
GROUPS = 10
"""Groups of the index, of about equal share in the reference."""


def count_scores(probability: ArrayLike, *, weight: ArrayLike | None = None) -> Counts:
    """float64 [B]: scores (or their weight) in each bin."""
    bin_N = np.searchsorted(EDGES, np.asarray(probability, np.float64), side="right")
    return np.bincount(bin_N, None if weight is None else np.asarray(weight, np.float64), len(EDGES) + 1).astype(float)


@dataclass(frozen=True)
class ScoreReference:
    """What a release scores on moments of its own dataset. `split`: where these come from; `moments`: how many; `counts`: kind of
    candidates (given, retrieved) → [B], in numbers of scored candidates.
    """

    split: str
    moments: int
    counts: Mapping[str, Counts]

    def drift(self, kind: str, *, actual: Counts) -> float:
        """Population stability index of `actual` counts [B] against the reference; see `metrics.drift.stability_index`."""
        expected = self.counts[kind]
        group_B = equal_groups(expected, groups=GROUPS)
        return stability_index(np.bincount(group_B, expected), actual=np.bincount(group_B, actual))

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        counts = {kind: [round(float(n), 3) for n in count_B] for kind, count_B in self.counts.items()}
        return {"split": self.split, "moments": self.moments, "edges": EDGES.tolist(), "counts": counts}

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> ScoreReference:
        """The inverse of `to_dict`. Raises ValueError where the bins are not those of this version."""
        if not np.allclose(raw["edges"], EDGES, rtol=1e-9):
            raise ValueError("the bins of the scores are those of another version")
        counts = {kind: np.asarray(count, np.float64) for kind, count in raw["counts"].items()}
        return ScoreReference(raw["split"], int(raw["moments"]), counts)
