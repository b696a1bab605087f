"""How many windows make a step, and how often they are passed over."""

from __future__ import annotations

from dataclasses import dataclass

from clm_ray.config.train import TrainConfig

FEWEST_WINDOWS = 4
"""Windows that a step has at least, so that its gradient is more than one user's. The number of workers does not matter: a rank without a
share of a step gets an empty window."""


@dataclass(frozen=True)
class Schedule:
    """Windows per step (global), steps per epoch, epochs: a function of the recipe and of the number of training windows."""

    windows_per_step: int
    steps: int
    epochs: int

    @staticmethod
    def plan(config: TrainConfig, windows: int) -> Schedule:
        """The recipe's sizes where there are windows enough; else smaller steps, then more epochs, until there are `min_steps`."""
        enough = windows * config.epochs // config.min_steps
        size = min(config.windows_per_step, max(enough, FEWEST_WINDOWS))
        steps = max(1, -(-windows // size))
        return Schedule(size, steps, max(config.epochs, -(-config.min_steps // steps)))

    @property
    def total(self) -> int:
        """Steps of a run that nothing stops early."""
        return self.steps * self.epochs
