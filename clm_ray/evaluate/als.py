"""The retrieval baseline ALS: factors of the interaction matrix, by the library `implicit` (the extra `als`).

Shape letters: U users, I items, F factors, K items that one user took.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from clm_ray.config.evaluate import AlsConfig

MISSING = "No ALS: the package implicit is not installed; pip install 'clm-ray[als]' brings it."
_SEED = 0


@dataclass(frozen=True)
class AlsFactors:
    """Item factors, and what it takes to fold a user in. Users' own factors are not kept: they would be those of the end of training."""

    factor_IF: NDArray[np.float32]
    alpha: float
    regularisation: float

    def gram(self) -> NDArray[np.float64]:
        """[F, F] the part of the normal equations that all users share."""
        y_IF = self.factor_IF.astype(np.float64)
        return np.asarray(y_IF.T @ y_IF + self.regularisation * np.eye(y_IF.shape[1]))

    def scores(
        self, item_K: NDArray[np.int32], count_K: NDArray[np.int64], *, gram: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """float32 [I]: the preference for every item of a user who took `item_K`. The user is folded in: x = (Y'Y + Y'(C - 1)Y + λ)⁻¹ Y'C p,
        the exact least-squares step of the fit (eq. 4 of the paper), for what the user took up to the moment."""
        y_KF = self.factor_IF[item_K].astype(np.float64)
        confidence_K = 1.0 + self.alpha * count_K
        left_FF = gram + (y_KF.T * (confidence_K - 1.0)) @ y_KF
        user_F = linalg.solve(left_FF, y_KF.T @ confidence_K, assume_a="pos")
        return np.asarray(self.factor_IF @ user_F.astype(np.float32))


def fit_als(count_UI: sparse.csr_matrix, config: AlsConfig) -> AlsFactors | None:
    """Collaborative filtering for implicit feedback (Hu, Koren & Volinsky, ICDM 2008): confidence 1 + alpha n for n events, 1 for none.

    None where `implicit` is not installed. Seeded, on the CPU, with a fixed number of threads: the same matrix gives the same factors. In memory
    are X, and factors of users and items, (U + I) F float32.
    """
    library = _library()
    if library is None:
        return None
    solver, threadpool_limits = library
    confidence_UI = count_UI.astype(np.float32)
    confidence_UI.data = 1.0 + np.float32(config.alpha) * confidence_UI.data
    # implicit runs its own threads and asks that the BLAS below them has one.
    with threadpool_limits(1, "blas"):
        model = solver(
            factors=config.factors,
            regularization=config.regularisation,
            alpha=1.0,
            iterations=config.iterations,
            num_threads=config.threads,
            random_state=_SEED,
        )
        model.fit(confidence_UI, show_progress=False)
    return AlsFactors(np.asarray(model.item_factors, np.float32), config.alpha, config.regularisation)


def _library() -> tuple[Any, Any] | None:
    """The solver for the CPU (a GPU's sums would differ from run to run), and the switch of BLAS threads that comes with it."""
    try:
        from implicit.cpu.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits
    except ImportError:
        return None
    return AlternatingLeastSquares, threadpool_limits
