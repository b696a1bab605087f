"""Cached lower states of all distinct texts, and the refreshed cache of their vectors.

Each rank computes its share and gathers the others': the cost of one pass over the catalogue's texts is split.

Shape letters: Z all distinct texts, X texts of a batch, S tokens, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from clm_ray.model.text import TextTower, Tokens

TEXTS_PER_PASS = {"cpu": 64, "cuda": 1024}
"""Texts that are encoded together at most, by kind of device: little padding on a CPU, few and large kernels on a GPU."""


@dataclass(frozen=True)
class LowerStates:
    """Ragged lower states: text z is state_VH[start[z]:start[z + 1]]."""

    state_VH: NDArray[np.float32]
    start: NDArray[np.int64]

    def lengths(self, texts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of each of the given texts."""
        return self.start[texts + 1] - self.start[texts]

    def padded(self, texts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(states [X, S, H], mask [X, S]) of the given texts."""
        lengths = self.lengths(texts)
        mask = np.arange(int(lengths.max(initial=1)))[None, :] < lengths[:, None]
        rows, cols = np.nonzero(mask)
        out = np.zeros((*mask.shape, self.state_VH.shape[1]), np.float32)
        out[rows, cols] = self.state_VH[self.start[texts][rows] + cols]
        return torch.from_numpy(out), torch.from_numpy(mask)


def _shares(count: int, world: int) -> list[NDArray[np.int64]]:
    return [np.arange(rank, count, world) for rank in range(world)]


def _gathered(part: Any, world: int) -> list[Any]:
    parts: list[Any] = [None] * world
    if world == 1:
        return [part]
    dist.all_gather_object(parts, part)
    return parts


@torch.no_grad()
def lower_states(tower: TextTower, tokens: Tokens, *, rank: int, world: int, device: torch.device) -> LowerStates:
    """Run the frozen layers once over all texts, split over the ranks."""
    mine: dict[int, NDArray[np.float32]] = {}
    for texts, ids, mask in tokens.batches(_shares(len(tokens), world)[rank], TEXTS_PER_PASS[device.type]):
        states = tower.lower_states(ids.to(device), mask.to(device)).float().cpu().numpy()
        for x, text in enumerate(texts):
            mine[int(text)] = states[x, : int(mask[x].sum())]
    joined: dict[int, NDArray[np.float32]] = {}
    for part in _gathered(mine, world):
        joined.update(part)
    return LowerStates(np.concatenate([joined[z] for z in range(len(tokens))]), tokens.start)


@torch.no_grad()
def text_vectors(
    tower: TextTower, lower: LowerStates, count: int, *, rank: int, world: int, device: torch.device
) -> NDArray[np.float32]:
    """t [Z, H] of all texts with the tower as it is now, split over the ranks.

    Each rank calls the tower equally often: where weights are partitioned, every call is one of all ranks.
    """
    share = _shares(count, world)[rank]
    share = share[np.argsort(lower.lengths(share), kind="stable")]
    vectors = np.zeros((len(share), tower.hidden), np.float32)
    largest = -(-count // world)
    size = TEXTS_PER_PASS[device.type]
    for first in range(0, largest, size):
        texts = share[first : first + size]
        states, mask = lower.padded(texts if len(texts) else np.zeros(1, np.int64))
        pooled = tower.pooled(states.to(device), mask.to(device)).float().cpu().numpy()
        vectors[first : first + len(texts)] = pooled[: len(texts)]
    out = np.zeros((count, tower.hidden), np.float32)
    for where, part in _gathered((share, vectors), world):
        out[where] = part
    return out
