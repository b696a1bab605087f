"""Thresholds of the life-cycle stages."""

from __future__ import annotations

from pydantic import Field, model_validator

from clm_ray.config.section import Section


class LifecycleConfig(Section):
    """When a user is new, established, at risk, churned, reactivated. All in days."""

    new_days: float = Field(default=28.0, gt=0)
    """A user is new for this long after the first activity."""
    at_risk_days: float | None = Field(default=None, gt=0)
    """Silence after which a user is at risk; None: learned (a high quantile of the log's gaps between active days)."""
    churned_days: float | None = Field(default=None, gt=0)
    """Silence after which a user has churned; None: learned (a still higher quantile)."""
    at_risk_quantile: float = Field(default=0.9, gt=0, lt=1)
    """Quantile of the gaps that gives `at_risk_days`."""
    churned_quantile: float = Field(default=0.99, gt=0, lt=1)
    """Quantile of the gaps that gives `churned_days`."""
    reactivated_days: float = Field(default=28.0, gt=0)
    """A user who came back after churning stays reactivated for this long."""
    settled_days: int = Field(default=2, ge=1)
    """Active days (UTC) after which a user who had been at risk no longer is, each less than `at_risk_days` after the one before; 1: the
    first one ends the risk."""

    @model_validator(mode="after")
    def _in_order(self) -> LifecycleConfig:
        if self.at_risk_days and self.churned_days and self.at_risk_days >= self.churned_days:
            raise ValueError(f"at_risk_days {self.at_risk_days} must be less than churned_days {self.churned_days}")
        return self
