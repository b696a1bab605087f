"""Averaged weights: an exponential moving average over the steps, which is what is validated, exported and served.

Every rank averages what it holds: whole weights under ZeRO 0 to 2, its own share under ZeRO-3, where the average therefore costs no
communication and no more memory than one more share.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from clm_ray.train.weights import full_state, local, share_of

_WARM_UP = 10


def decay_at(step: int, decay: float) -> float:
    """The decay of step `step` (from 0): min(decay, (1 + step) / (10 + step)), so that a short run forgets its initial weights too.

    Source: `tf.train.ExponentialMovingAverage(num_updates=...)`.
    """
    return min(decay, (1 + step) / (_WARM_UP + step))


class Average:
    """The moving average of a model's trained weights."""

    def __init__(self, model: nn.Module, decay: float, *, rank: int) -> None:
        self.model = model
        self.decay = decay
        self.rank = rank
        self.trained: dict[str, Any] = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.kept = {name: local(p).detach().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step `step` of the run (from 0)."""
        weight = 1.0 - decay_at(step, self.decay)
        for name, parameter in self.trained.items():
            self.kept[name].lerp_(local(parameter), weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.trained.items():
            held = local(parameter)
            trained = held.clone()
            held.copy_(self.kept[name])
            self.kept[name].copy_(trained)
            if hasattr(parameter, "ds_tensor"):
                parameter.partition(
                    has_been_updated=False
                )  # a weight that is kept whole is gathered anew from the shares

    def state(self) -> dict[str, Tensor]:
        """The averaged weights, whole. Every rank calls it."""
        with self.applied():
            return {name: t for name, t in full_state(self.model).items() if name in self.trained}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Take up `state()` of another run, of any number of ranks."""
        for name, parameter in self.trained.items():
            self.kept[name].copy_(share_of(state[name], parameter, rank=self.rank))
