"""Vectors that each rank makes a part of and all ranks use.

Shape letters: E own vectors, C all vectors, H width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_groups: dict[int, Any] = {}


def shared(own_EH: Tensor, at_E: Tensor, count: int) -> Tensor:
    """float32 [C, H]: the vectors of all ranks, of which this rank's stand at `at_E`. Every rank calls it equally often, forward and backward.

    The gradient of a vector is the sum of the ranks' gradients, and goes to the rank that made it.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return own_EH.new_zeros(count, own_EH.shape[-1], dtype=torch.float32).index_copy(0, at_E, own_EH.float())
    vectors: Tensor = _Shared.apply(own_EH.float(), at_E, count)  # type: ignore[no-untyped-call]
    return vectors


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own_EH: Tensor, at_E: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(at_E)
        out = own_EH.new_zeros(count, own_EH.shape[-1])
        out[at_E] = own_EH
        dist.all_reduce(out, group=_group())
        return out

    @staticmethod
    def backward(ctx: Any, grad_CH: Tensor) -> tuple[Tensor, None, None]:
        (at_E,) = ctx.saved_tensors
        total = grad_CH.contiguous().clone()
        dist.all_reduce(total, group=_group())
        return total[at_E], None, None


def _group() -> Any:
    """A group of our own: DeepSpeed reduces gradients in the default one while the backward pass goes on."""
    world = dist.group.WORLD
    if id(world) not in _groups:
        _groups.clear()
        _groups[id(world)] = world, dist.new_group()  # with the world, whose id is then nobody else's
    return _groups[id(world)][1]
