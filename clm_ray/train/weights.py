"""The weights of a model whose parameters ZeRO-3 may have cut into one share per rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_OUTSIDE = -1
"""Stands among the modules that use a parameter at the moment: DeepSpeed drops no weight that is in use."""


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Within the block every rank holds the weights whole, whatever calls it makes; all ranks enter it together.

    DeepSpeed gathers a module's weights around its `forward` and drops them after it. What is done outside a training step (text vectors,
    validation, item vectors) calls parts of the model by other names, on some ranks more often than on others, and would find empty
    weights or wait for ever. The model that is served fits one process, so it fits here. Without ZeRO-3 there is nothing to do.
    """
    cut: list[Any] = [p for p in model.parameters() if hasattr(p, "ds_id")]
    if not cut or _OUTSIDE in cut[0].ds_active_sub_modules:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(cut):
        for parameter in cut:
            parameter.ds_active_sub_modules.add(_OUTSIDE)
        try:
            yield
        finally:
            for parameter in cut:
                parameter.ds_active_sub_modules.discard(_OUTSIDE)


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights, whole, in CPU memory. Every rank calls it."""
    with gathered(model):
        return {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}


def local(parameter: nn.Parameter) -> Tensor:
    """What this rank holds of a parameter: its share under ZeRO-3, else all of it. Writing to it changes the parameter."""
    share = getattr(parameter, "ds_tensor", None)
    return parameter.data if share is None else share.data


def share_of(whole: Tensor, parameter: nn.Parameter, *, rank: int) -> Tensor:
    """The part of `whole` that `local(parameter)` holds, padded as it is."""
    held = local(parameter)
    if not hasattr(parameter, "ds_tensor"):
        return whole.to(held)
    flat = whole.flatten()[rank * held.numel() : (rank + 1) * held.numel()]
    return torch.nn.functional.pad(flat, (0, held.numel() - flat.numel())).to(held)
