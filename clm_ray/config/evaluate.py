"""What `evaluate` reports."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clm_ray.config.section import Section


class AlsConfig(Section):
    """Factorisation of the interaction matrix by alternating least squares; needs the extra `als`."""

    factors: int = Field(default=64, ge=1)
    """Width of the factors of users and items."""
    regularisation: float = Field(default=10.0, ge=0)
    """Weight of the squared factors."""
    alpha: float = Field(default=1.0, gt=0)
    """A pair of user and item that met n times has confidence 1 + alpha n, any other 1."""
    iterations: int = Field(default=15, ge=1)
    """Rounds over all users and all items."""
    threads: int = Field(default=2, ge=1)
    """Threads of the solver."""


class KnnConfig(Section):
    """Item-to-item neighbours for retrieval, of the whole training period."""

    top: int = Field(default=100, ge=1)
    """Neighbours kept per item."""
    shrinkage: float = Field(default=20.0, ge=0)
    """The cosine is multiplied by n / (n + shrinkage) for n users in common."""


class EvaluateConfig(Section):
    """Metrics, slices and baselines."""

    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(10, 20, 50), min_length=1)
    """Cut-offs of the ranking metrics."""
    retrieve: int = Field(default=500, ge=1)
    """Whole-catalogue ranking: candidates taken from retrieval and then ranked, as in serving."""
    cold_user_events: int = Field(default=5, ge=0)
    """A user with fewer earlier events is cold."""
    cold_item_events: int = Field(default=10, ge=0)
    """An item with fewer training events is cold."""
    calibration_bins: int = Field(default=10, ge=2)
    """Bins (equal mass) of ECE and of the reliability plot."""
    baselines: bool = True
    """Also fit and score the baselines."""
    baseline_rows: int = Field(default=200_000, ge=100)
    """Training rows (a fixed sample) for the logistic regression on frozen text vectors."""
    als: AlsConfig = AlsConfig()
    """The retrieval baseline ALS."""
    item_knn: KnnConfig = KnnConfig()
    """The retrieval baseline item-kNN."""
