"""What stops a run or raises a warning: losses that diverge, validation figures that are too good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_START = 5
"""Steps whose mean loss is what a run started from."""
_MEMORY = 20
"""Steps that the smoothed loss looks back on, roughly."""
_LEAST = 0.1
"""What a loss that starts nearer to 0 is taken to have started from: where terms of both signs add up to nothing, any other loss is many times that."""


@dataclass
class LossWatch:
    """Loss at the start of a run, and smoothed over the last steps; plain numbers, since it is part of a checkpoint."""

    seen: int = 0
    start: float = 0.0
    smooth: float = 0.0

    def problem(self, losses: Sequence[float], *, total: float, explosion: float) -> str | None:
        """Take in one step's losses and their weighted `total`; what is wrong with them, if anything. The total may be negative (a density's
        likelihood is): it has exploded when it has risen by `explosion` - 1 times the size of what it started from."""
        if not all(math.isfinite(loss) for loss in losses):
            return "the loss is not finite"
        self.seen += 1
        if self.seen <= _START:
            self.start += (total - self.start) / self.seen
        self.smooth += (total - self.smooth) / min(self.seen, _MEMORY)
        allowed = (explosion - 1) * max(abs(self.start), _LEAST)
        return "the loss has exploded" if self.smooth - self.start > allowed else None


def leak_warnings(metrics: dict[str, float], *, leak_auc: float) -> list[str]:
    """A warning for each AUC above `leak_auc`."""
    return [
        f"{name} {value:.4f} is above train.leak_auc={leak_auc}: a label or a feature probably knows the answer; "
        "see features.json and report.md of the dataset"
        for name, value in metrics.items()
        if name.endswith("_auc") and value > leak_auc
    ]
