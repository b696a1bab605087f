"""The bounded sample of train rows by which features are selected: the same whatever buckets its users came from, and in whatever order.

Shape letters: N rows, F features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SAMPLE_PER_USER = 64
"""Train rows of one user that feature selection looks at."""
SAMPLE_ROWS = 200_000
"""Train rows of all users that feature selection looks at, those of the users with the smallest stable hash."""


@dataclass(frozen=True)
class SampledUser:
    """Train rows of one user; `rank` is a stable hash that decides which users are looked at."""

    rank: int
    dense_NF: NDArray[np.float32]
    label_N: NDArray[np.float32]


@dataclass
class FeatureSample:
    """Users whose train rows select the features: of the click head, and of the retention head by report horizon, days."""

    click: list[SampledUser] = field(default_factory=list)
    retention: dict[int, list[SampledUser]] = field(default_factory=lambda: defaultdict(list))

    def bounded(self) -> FeatureSample:
        """Without the users that no sample of more users would hold either."""
        return FeatureSample(first_ranked(self.click), {days: first_ranked(of) for days, of in self.retention.items()})

    def joined(self, other: FeatureSample) -> FeatureSample:
        """The sample of both."""
        days = sorted({*self.retention, *other.retention})
        retention = {d: [*self.retention.get(d, ()), *other.retention.get(d, ())] for d in days}
        return FeatureSample([*self.click, *other.click], retention).bounded()


def first_ranked(users: Sequence[SampledUser]) -> list[SampledUser]:
    """Users in the order of rank until SAMPLE_ROWS rows are together."""
    found = sorted((u for u in users if len(u.label_N)), key=lambda u: u.rank)
    rows = np.cumsum([0, *(len(u.label_N) for u in found)])
    return found[: int(np.searchsorted(rows, SAMPLE_ROWS))]
