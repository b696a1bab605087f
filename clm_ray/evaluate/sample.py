"""The fixed samples of rows that the baselines are fitted on (training) and calibrated on (validation), drawn by moment, bucket by bucket.

Shape letters: P candidates, M moments, H width of text vectors, R references, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_COLUMNS = "columns:"
_ARRAYS = (
    "label_P",
    "weight_P",
    "offset_P",
    "item_P",
    "moment_P",
    "mean_MH",
    "recency_RF",
    "bin_R",
    "seen_R",
    "value_R",
    "stage_R",
)


@dataclass(frozen=True)
class Sample:
    """`columns`: features by tabular baseline. `mean_MH`: mean text vector of the user at each moment (width 0 without texts).
    `value_R`: spend within the longest horizon, NaN where it is not known; `stage_R`: life-cycle stage, a position in STAGES."""

    label_P: NDArray[np.float32]
    weight_P: NDArray[np.float32]
    offset_P: NDArray[np.float32]
    item_P: NDArray[np.int32]
    moment_P: NDArray[np.int64]
    mean_MH: NDArray[np.float32]
    columns: Mapping[str, Floats]
    recency_RF: Floats
    bin_R: NDArray[np.int32]
    seen_R: NDArray[np.int32]
    value_R: NDArray[np.float32]
    stage_R: NDArray[np.int8]

    def save(self, path: Path) -> None:
        """Write as .npz (no pickles)."""
        named: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        named |= {_COLUMNS + name: value for name, value in self.columns.items()}
        np.savez(path, **named)

    @staticmethod
    def load(path: Path) -> Sample:
        """The inverse of `save`."""
        with np.load(path, allow_pickle=False) as file:
            columns = {name.removeprefix(_COLUMNS): file[name] for name in file.files if name.startswith(_COLUMNS)}
            return Sample(**{name: file[name] for name in _ARRAYS}, columns=columns)

    @staticmethod
    def join(parts: Sequence[Sample]) -> Sample:
        """One sample of several; at least one."""
        moments = np.cumsum([0, *(len(part.mean_MH) for part in parts)])
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
        joined["moment_P"] = np.concatenate([p.moment_P + first for p, first in zip(parts, moments, strict=False)])
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
        return Sample(**joined, columns=columns)
