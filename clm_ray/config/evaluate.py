"""What `evaluate` reports."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clm_ray.config.section import Section


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
