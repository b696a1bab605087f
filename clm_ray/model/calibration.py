"""Calibration of click probabilities, fitted on the validation split: Platt scaling or isotonic regression.

Shape letters: N targets, K knots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import expit
from torch import Tensor

from clm_ray.metrics.click import log_loss
from clm_ray.model.logistic import fitted


@dataclass(frozen=True)
class Calibration:
    """From a logit to the calibrated one. platt: slope · logit + intercept; isotonic: the line through the knots, with slope 1
    beyond the first and the last; none: the identity. `rows`: targets it was fitted on.
    """

    kind: Literal["platt", "isotonic", "none"] = "none"
    slope: float = 1.0
    intercept: float = 0.0
    logit_K: tuple[float, ...] = ()
    calibrated_K: tuple[float, ...] = ()
    rows: int = 0

    @staticmethod
    def fit(
        logit_N: NDArray[np.float64],
        label_N: NDArray[np.float64],
        *,
        weight_N: NDArray[np.float64],
        offset_N: NDArray[np.float64],
        kind: Literal["platt", "isotonic", "none"] = "platt",
    ) -> Calibration:
        """Fit `kind`, the sampling offset held fixed. Returns the identity where only one class is there, or where the fit turns the
        order around or does not lower the log loss of these targets.
        """
        positives = float(label_N.sum())
        if kind == "none" or not 0 < positives < len(label_N):
            return IDENTITY
        fit = _platt if kind == "platt" else _isotonic
        found = fit(logit_N, label_N, weight_N=weight_N, offset_N=offset_N)
        before = log_loss(label_N, probability=expit(logit_N + offset_N), weight=weight_N)
        calibrated_N = found.apply(torch.from_numpy(logit_N)).numpy()
        after = log_loss(label_N, probability=expit(calibrated_N + offset_N), weight=weight_N)
        return found if found.slope > 0 and after < before else IDENTITY

    def apply(self, logit: Tensor) -> Tensor:
        """Calibrated logits, of the same shape. Differentiable."""
        if self.kind != "isotonic":
            return self.slope * logit + self.intercept
        knot_K, to_K = (
            torch.tensor(k, dtype=logit.dtype, device=logit.device) for k in (self.logit_K, self.calibrated_K)
        )
        rise_K = torch.ones(len(knot_K) + 1, dtype=logit.dtype, device=logit.device)
        rise_K[1:-1] = to_K.diff() / knot_K.diff()
        piece = torch.searchsorted(knot_K, logit.detach().contiguous())
        start = (piece - 1).clamp(min=0)
        return to_K[start] + rise_K[piece] * (logit - knot_K[start])

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Calibration:
        """From the fields as JSON has them."""
        knots = {name: tuple(raw[name]) for name in ("logit_K", "calibrated_K")}
        return Calibration(**(raw | knots))


IDENTITY = Calibration()
"""No calibration."""


def _platt(
    logit_N: NDArray[np.float64],
    label_N: NDArray[np.float64],
    *,
    weight_N: NDArray[np.float64],
    offset_N: NDArray[np.float64],
) -> Calibration:
    """Maximum likelihood (Platt, 1999)."""
    design = np.stack([logit_N, np.ones(len(logit_N))], axis=1)
    slope, intercept = fitted(
        design, label_N, start=np.array([1.0, 0.0]), weight_N=weight_N, offset_N=offset_N
    ).tolist()
    return Calibration("platt", slope, intercept, rows=len(label_N))


def _isotonic(
    logit_N: NDArray[np.float64],
    label_N: NDArray[np.float64],
    *,
    weight_N: NDArray[np.float64],
    offset_N: NDArray[np.float64],
) -> Calibration:
    """Isotonic regression (Zadrozny & Elkan, 2002) of the labels on the logits; a sampled negative stands for exp(offset) of them. The
    steps are joined at their middles (centred isotonic regression, Oron & Flournoy, 2017): targets of one step keep their order.
    """
    weight_N = np.where(label_N > 0, weight_N, weight_N * np.exp(offset_N))
    logit_D, at = np.unique(logit_N, return_inverse=True)
    weight_D = np.bincount(at, weight_N)
    used = weight_D > 0
    rate_D = np.bincount(at, weight_N * label_N)[used] / weight_D[used]
    regression = isotonic_regression(rate_D, weights=weight_D[used])
    starts = regression.blocks[:-1]
    mass_K = np.add.reduceat(weight_D[used], starts)
    middle_K = np.add.reduceat(weight_D[used] * logit_D[used], starts) / mass_K
    rate_K = regression.x[starts]
    if len(rate_K) < 2:
        return IDENTITY
    # A step without a positive (or a negative) says only that they are rare there.
    rate_K[0] = min(max(rate_K[0], 1 / (mass_K[0] + 2)), rate_K[1]) if rate_K[0] == 0 else rate_K[0]
    rate_K[-1] = max(min(rate_K[-1], 1 - 1 / (mass_K[-1] + 2)), rate_K[-2]) if rate_K[-1] == 1 else rate_K[-1]
    inner = (rate_K > 0) & (rate_K < 1)
    calibrated_K = np.log(rate_K[inner] / (1 - rate_K[inner]))
    if inner.sum() < 2:
        return IDENTITY
    knots = tuple(map(float, middle_K[inner])), tuple(map(float, calibrated_K))
    return Calibration("isotonic", logit_K=knots[0], calibrated_K=knots[1], rows=len(label_N))
