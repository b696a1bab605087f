"""What the slate of a user is for at each stage of their life, and how it is put together there.

Options change what is shown and in which order, never a probability. A stage that is given in part keeps its other defaults:

    strategy:
      new: {diversity: 0.5}
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from clm_ray.config.section import Section
from clm_ray.config.serve import FreshnessConfig
from clm_ray.config.stages import STAGES, Stage


class StageStrategy(Section):
    """The strategy of one stage. Without any option its slates are ordered by probability and by the rules of the shop."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Identifier; answers and the log name it."""
    why: str = Field(min_length=1, max_length=300)
    """One sentence for the answer, without a full stop."""
    popular_share: float = Field(default=0.0, ge=0, le=1)
    """Of the first n items of a slate at least this share, rounded down, are among those that users of this stage choose most, as far as there are such candidates."""
    adjacent_share: float = Field(default=0.0, ge=0, le=1)
    """The same for items of a category that the user has not chosen from yet, and that is near to one they have chosen from."""
    diversity: float | None = Field(default=None, ge=0, lt=1)
    """As `serve.diversity`, at this stage; None: that one."""
    freshness: FreshnessConfig | None = None
    """As `serve.freshness`, at this stage; None: that one."""

    @model_validator(mode="after")
    def _both_fit(self) -> StageStrategy:
        if self.popular_share + self.adjacent_share > 1:
            raise ValueError(
                f"popular_share {self.popular_share} and adjacent_share {self.adjacent_share} ask for more than the whole slate"
            )
        return self

    def options(self) -> dict[str, Any]:
        """Those that are set, as plain data."""
        given = self.model_dump(exclude={"name", "why"}, exclude_none=True)
        return {name: value for name, value in given.items() if value or name == "diversity"}


DEFAULTS: dict[Stage, StageStrategy] = {
    "prospect": StageStrategy(
        name="convert",
        why="nothing is known of the user yet: half of the slate is what others chose first, so that there is something to begin with",
        popular_share=0.5,
    ),
    "new": StageStrategy(
        name="teach",
        why="little is known of the user yet: the slate is diverse, so that each answer to it teaches the most",
        diversity=0.3,
    ),
    "established": StageStrategy(
        name="deepen",
        why="the user comes regularly: the slate holds some of what is new, and of what lies next to what they choose",
        adjacent_share=0.2,
        freshness=FreshnessConfig(times=1.5),
    ),
    "at_risk": StageStrategy(
        name="treat",
        why="the user stays away longer than usual: the slate takes no risk, and a reminder or a coupon goes out where it pays",
    ),
    "churned": StageStrategy(
        name="win_back",
        why="the user has gone: campaigns call them back, and the slate shows what has come since",
        freshness=FreshnessConfig(times=2.0, half_life_days=28.0),
    ),
    "reactivated": StageStrategy(
        name="watch",
        why="the user has just come back: nothing is done but to show what suits them best, and to see whether they stay",
    ),
}
"""The shipped strategies."""


class StrategyConfig(Section):
    """Strategies by stage."""

    enabled: bool = True
    """Off: slates are the same at every stage, and answers name no strategy."""
    popular_items: int = Field(default=100, ge=1)
    """popular_share: so many items count as those that users of a stage choose most."""
    near_categories: int = Field(default=3, ge=1)
    """adjacent_share: so many categories count as near to a category, by the likeness of their items."""
    prospect: StageStrategy = DEFAULTS["prospect"]
    """Convert."""
    new: StageStrategy = DEFAULTS["new"]
    """Teach."""
    established: StageStrategy = DEFAULTS["established"]
    """Deepen."""
    at_risk: StageStrategy = DEFAULTS["at_risk"]
    """Treat where it pays."""
    churned: StageStrategy = DEFAULTS["churned"]
    """Win back."""
    reactivated: StageStrategy = DEFAULTS["reactivated"]
    """Watch."""

    @model_validator(mode="before")
    @classmethod
    def _over_defaults(cls, raw: Any) -> Any:
        """A stage given in part keeps what else its default says."""
        if not isinstance(raw, dict):
            return raw
        given = {stage: raw[stage] for stage in STAGES if isinstance(raw.get(stage), dict)}
        return {**raw, **{stage: DEFAULTS[stage].model_dump() | mine for stage, mine in given.items()}}

    def of(self, stage: Stage) -> StageStrategy:
        """The strategy of this stage."""
        strategy: StageStrategy = getattr(self, stage)
        return strategy
