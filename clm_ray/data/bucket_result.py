"""What the build makes of one bucket, beside its files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clm_ray.data.bucket_figures import BucketFigures
from clm_ray.data.evaluation_sample import HeldOutOccasion
from clm_ray.data.feature_sample import FeatureSample
from clm_ray.data.tally import NOTHING, Tally


@dataclass
class BucketResult:
    """What the users of one bucket gave. `positives`: positive (moment, item) pairs, `asked`: those of them that are targets of an
    occasion (negatives sampled). `left_out`: occasions (rows of the log, where negatives are explicit) that lie in an embargo or whose label
    was not yet known. `rates`: targets, positives and the sum of the offsets by split. `moments`: number, sum and sum of squares of the
    train targets' ratings and of the logarithm of the train references' spend, where there is any. `gaps`: those between a user's active days of the train period, by days. `figures`: for the data report."""

    windows: list[dict[str, Any]] = field(default_factory=list)
    impressions: list[dict[str, Any]] = field(default_factory=list)
    references: list[dict[str, Any]] = field(default_factory=list)
    interactions: list[tuple[str, NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]] = field(
        default_factory=list
    )
    test_occasions: list[HeldOutOccasion] = field(default_factory=list)
    sample: FeatureSample = field(default_factory=FeatureSample)
    gaps: Tally = NOTHING
    rates: dict[str, list[float]] = field(default_factory=dict)
    moments: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    positives: int = 0
    asked: int = 0
    left_out: int = 0
    figures: BucketFigures = field(default_factory=BucketFigures)
