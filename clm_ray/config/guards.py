"""When the policy stops by itself, and which groups of users are compared."""

from __future__ import annotations

from pydantic import Field

from clm_ray.config.section import Section


class GuardrailsConfig(Section):
    """Bounds that stop an action, or all of them, until a person sets them free again. None: that bound is not watched."""

    every_minutes: float = Field(default=60.0, gt=0)
    """How often the endpoint looks, minutes of its clock."""
    window_days: float = Field(default=28.0, gt=0)
    """How far back it looks, days."""
    most_decisions: int = Field(default=50_000, ge=1)
    """The newest decisions that it looks at, so that looking stays short."""
    min_decisions: int = Field(default=100, ge=1)
    """Fewer contacts, or users, than this say nothing."""
    unsubscribe_events: tuple[str, ...] = ("unsubscribe",)
    """Event types by which a user leaves."""
    complaint_events: tuple[str, ...] = ("complaint",)
    """Event types by which a user complains."""
    answer_days: float = Field(default=7.0, gt=0)
    """Days after a contact in which such an event counts against it."""
    max_unsubscribes: float | None = Field(default=0.02, gt=0, le=1)
    """Share of an action's contacts followed by an unsubscription: stopped where its lower 95 % bound is above."""
    max_complaints: float | None = Field(default=0.005, gt=0, le=1)
    """The same for complaints."""
    max_cost_per_user: float | None = Field(default=250.0, gt=0)
    """Cost per incremental user, in the recipe's currency: stopped where even the upper end of the observed uplift costs more."""
    max_stage_drift: float | None = Field(default=0.25, gt=0)
    """Stability index of the stage mix between the older and the newer half of the window: everything is stopped above."""
    min_holdout_p: float | None = Field(default=0.001, gt=0, lt=1)
    """p-value of the holdout's share of users (chi-square): everything is stopped below, because comparisons with it would be wrong."""


class FairnessConfig(Section):
    """Groups of users that the policy may not treat too differently."""

    columns: tuple[str, ...] = ()
    """Columns of the user table; each value is a group. Categories only."""
    min_users: int = Field(default=100, ge=1)
    """Groups with fewer users are reported, and not compared."""
    max_action_gap: float = Field(default=0.10, gt=0, le=1)
    """Largest difference in the probability of being treated, between two groups, in the same stage."""
    max_uplift_gap: float = Field(default=0.05, gt=0, le=1)
    """Largest difference in observed uplift, beyond what chance explains."""
    max_calibration_gap: float = Field(default=0.05, gt=0, le=1)
    """Largest difference in (mean forecast - share seen active), beyond what chance explains."""
