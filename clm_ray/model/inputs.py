"""Input coding of the network, the same in training and scoring: ragged windows padded, user columns as numbers.

Shape letters: as in network.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clm_ray.features.tokens import TOKEN_VALUES
from clm_ray.model.items import UserTable
from clm_ray.model.network import UserInputs


def user_inputs(
    *,
    items: Sequence[NDArray[Any]],
    events: Sequence[NDArray[Any]],
    values: Sequence[NDArray[np.float32]],
    columns: Sequence[tuple[dict[str, str], dict[str, float]]],
    table: UserTable,
) -> UserInputs:
    """Pad ragged windows and code the users' columns: the same function in training and scoring."""
    codes = [table.codes(categorical) for categorical, _ in columns]
    return UserInputs(
        item_BN=pad(items, torch.int64),
        event_BN=pad(events, torch.int64),
        value_BNV=pad(values, torch.float32, width=len(TOKEN_VALUES)),
        user_category=torch.tensor([c for row in codes for c in row]),
        user_category_start_B=torch.tensor(np.cumsum([0, *(len(row) for row in codes[:-1])])),
        user_number_B=torch.tensor([table.scaled(numeric) for _, numeric in columns], dtype=torch.float32),
    )


def pad(arrays: Sequence[NDArray[Any]], dtype: torch.dtype, *, width: int | None = None, least: int = 0) -> Tensor:
    """[B, longest] or, with `width`, [B, longest, width]; short rows end with zeros, and `longest` is at least `least`."""
    length_B = np.array([len(a) for a in arrays], np.int64)
    empty = np.empty((0, width) if width is not None else 0)
    return padded(np.concatenate([empty, *(a for a in arrays if len(a))]), length_B, dtype, least=least)


def padded(values: NDArray[Any], length_B: NDArray[np.int64], dtype: torch.dtype, *, least: int = 0) -> Tensor:
    """As `pad`, from the rows' values one after the other and the rows' lengths."""
    longest = int(length_B.max(initial=least))
    out = np.zeros((len(length_B), longest, *values.shape[1:]), _NUMPY[dtype])
    out[np.arange(longest) < length_B[:, None]] = values
    return torch.from_numpy(out)


_NUMPY: dict[torch.dtype, type[np.generic]] = {torch.int64: np.int64, torch.float32: np.float32}
