"""Stacking (Wolpert, 1992) of the click head's calibrated logit with what the matrix factorisation expects, fitted on the validation split.

Shape letters: N targets, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from clm_ray.metrics.click import log_loss
from clm_ray.model.logistic import Floats, fitted


@dataclass(frozen=True)
class Stacking:
    """Where there is an expected rating, the logit becomes own · logit + other · rating + intercept. `rows`: targets it was fitted on."""

    own: float = 1.0
    other: float = 0.0
    intercept: float = 0.0
    rows: int = 0

    @staticmethod
    def fit(
        logit_N: Floats,
        label_N: Floats,
        *,
        rating_N: Floats,
        weight_N: Floats,
        offset_N: Floats,
    ) -> Stacking:
        """Fit on the targets with an expected rating (not NaN), the sampling offset held fixed. Returns ALONE where only one class is there,
        or where the fit would not lower the log loss of these targets or takes a rating against its sense; a logit that would be taken so has no
        say.
        """
        known_N = ~np.isnan(rating_N)
        logit, label, rating, weight, offset = (
            column[known_N] for column in (logit_N, label_N, rating_N, weight_N, offset_N)
        )
        if not 0 < label.sum() < len(label):
            return ALONE
        design = np.stack([logit, rating, np.ones(len(logit))], axis=1)
        start = np.array([1.0, 0.0, 0.0])
        weights = fitted(design, label, start=start, weight_N=weight, offset_N=offset)
        if weights[0] < 0:
            said = fitted(design[:, 1:], label, start=start[1:], weight_N=weight, offset_N=offset)
            weights = np.concatenate([[0.0], said])
        before = log_loss(label, probability=expit(logit + offset), weight=weight)
        after = log_loss(label, probability=expit(design @ weights + offset), weight=weight)
        own, other, intercept = weights.tolist()
        return Stacking(own, other, intercept, rows=len(label)) if other > 0 and after < before else ALONE

    def apply(self, logit_C: Tensor, rating_C: NDArray[np.float32]) -> Tensor:
        """float32 [C]: logits with the ratings in; as they were where a rating is NaN. Differentiable in the logits."""
        if self == ALONE:
            return logit_C
        rating = torch.from_numpy(rating_C).to(logit_C)
        stacked = self.own * logit_C + self.other * rating.nan_to_num(0.0) + self.intercept
        return torch.where(rating.isnan(), logit_C, stacked)


ALONE = Stacking()
"""The click head's logit as it is."""
