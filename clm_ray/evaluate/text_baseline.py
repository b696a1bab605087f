"""The baseline of a plain deep-learning start: logistic regression on vectors of the pretrained, never fine-tuned encoder.

Features of (user, item) at t: mean vector u of the user's last context events before t, the item's vector x, their product u·x by element.

Shape letters: D distinct texts, I items, H width of the vectors, M moments, P rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from clm_ray.evaluate.dataset import Occasions
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History

VECTORS, ROWS = "frozen_text_vectors.npy", "item_text.npy"
_ITERATIONS = 100


@dataclass(frozen=True)
class FrozenTexts:
    """vector_DH: standardised vectors of the distinct texts. text_I: distinct text of each item."""

    vector_DH: NDArray[np.float32]
    text_I: NDArray[np.int64]
    vocabulary: EventVocabulary
    max_context: int

    @staticmethod
    def open(folder: Path, *, vocabulary: EventVocabulary, max_context: int) -> FrozenTexts | None:
        """From a model folder; None where the model has no text."""
        if not (folder / VECTORS).is_file() or not (folder / ROWS).is_file():
            return None
        vector_DH = np.load(folder / VECTORS).astype(np.float32)
        spread_H = vector_DH.std(0)
        vector_DH = (vector_DH - vector_DH.mean(0)) / np.where(spread_H > 1e-6, spread_H, 1.0)
        return FrozenTexts(vector_DH, np.load(folder / ROWS).astype(np.int64), vocabulary, max_context)

    def means(self, history: History, time_M: NDArray[np.int64]) -> NDArray[np.float32]:
        """[M, H] mean vector of the last `max_context` context events with an item before each moment; 0 where there is none."""
        context = history.select(self.vocabulary.is_context(history))
        stop_M = np.searchsorted(context.time_N, time_M, side="left")
        result_MH = np.zeros((len(time_M), self.vector_DH.shape[1]), np.float32)
        for m, stop in enumerate(stop_M):
            item_C = context.item_N[max(0, stop - self.max_context) : stop]
            item_C = item_C[item_C > 0]
            if len(item_C):
                result_MH[m] = self.vector_DH[self.text_I[item_C]].mean(0)
        return result_MH


@dataclass(frozen=True)
class TextLogistic:
    """logit = bias + user_H · u + item_H · x + both_H · (u x)."""

    user_H: NDArray[np.float32]
    item_H: NDArray[np.float32]
    both_H: NDArray[np.float32]
    bias: float

    def of_sample(
        self,
        texts: FrozenTexts,
        *,
        mean_MH: NDArray[np.float32],
        moment_P: NDArray[np.int64],
        item_P: NDArray[np.int32],
    ) -> NDArray[np.float32]:
        """float32 [P]: the same of a sample's rows, given the users' means at its moments."""
        slope_MH = mean_MH * self.both_H + self.item_H
        level_M = mean_MH @ self.user_H + self.bias
        logit_P = (slope_MH[moment_P] * texts.vector_DH[texts.text_I[item_P]]).sum(axis=1) + level_M[moment_P]
        return np.asarray(expit(logit_P), np.float32)

    def probability(self, texts: FrozenTexts, *, history: History, occasions: Occasions) -> NDArray[np.float32]:
        """float32 [P], from events strictly before each moment."""
        mean_MH = texts.means(history, occasions.time_Q)
        slope_MH = mean_MH * self.both_H + self.item_H
        level_M = mean_MH @ self.user_H + self.bias
        logit_P = np.empty(len(occasions.item_P), np.float32)
        for m in range(len(occasions.time_Q)):
            text_C = texts.text_I[occasions.items(m)]
            cut = slice(occasions.start_Q[m], occasions.start_Q[m + 1])
            if 2 * len(text_C) > len(texts.vector_DH):
                logit_P[cut] = (texts.vector_DH @ slope_MH[m])[text_C] + level_M[m]
            else:
                logit_P[cut] = texts.vector_DH[text_C] @ slope_MH[m] + level_M[m]
        return np.asarray(expit(logit_P))


def fit_text(
    texts: FrozenTexts,
    *,
    mean_MH: NDArray[np.float32],
    moment_P: NDArray[np.int64],
    item_P: NDArray[np.int32],
    label_P: NDArray[np.float32],
    weight_P: NDArray[np.float32],
    offset_P: NDArray[np.float32],
    penalty: float = 1.0,
) -> TextLogistic:
    """Fit by L-BFGS on the penalised likelihood, with the sampling offset as in `logistic.fit`.

    Only the product of the two vectors is laid out per row; the other two blocks are used through their distinct rows.
    """
    vector_DH, text_P = texts.vector_DH, texts.text_I[item_P]
    both_PH = mean_MH[moment_P] * vector_DH[text_P]
    width, total = vector_DH.shape[1], float(weight_P.sum())
    rate = (float(weight_P @ label_P) + 0.5) / (total + 1)
    start = np.zeros(3 * width + 1)
    start[-1] = np.log(rate / (1 - rate)) - float(weight_P @ offset_P) / total

    def loss_and_slope(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        user_H, item_H, both_H = (theta[n * width : (n + 1) * width].astype(np.float32) for n in range(3))
        logit_P = both_PH @ both_H + (mean_MH @ user_H)[moment_P] + (vector_DH @ item_H)[text_P] + offset_P + theta[-1]
        logit_P = logit_P.astype(np.float64)
        loss = float(weight_P @ (np.logaddexp(0, logit_P) - label_P * logit_P))
        pull_P = (weight_P * (expit(logit_P) - label_P)).astype(np.float32)
        slope = np.concatenate(
            [
                mean_MH.T @ np.bincount(moment_P, pull_P, len(mean_MH)).astype(np.float32),
                vector_DH.T @ np.bincount(text_P, pull_P, len(vector_DH)).astype(np.float32),
                both_PH.T @ pull_P,
                [pull_P.sum()],
            ]
        ).astype(np.float64)
        shrunk = np.r_[theta[:-1], 0.0]
        return (loss + penalty * float(shrunk @ shrunk) / 2) / total, (slope + penalty * shrunk) / total

    best = minimize(loss_and_slope, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS, "ftol": 1e-7})
    user_H, item_H, both_H = (best.x[n * width : (n + 1) * width].astype(np.float32) for n in range(3))
    return TextLogistic(user_H, item_H, both_H, float(best.x[-1]))
