"""The first policy: fixed preferences per life-cycle stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clm_ray.config.policy import NO_ACTION, PolicyConfig, Stage


@dataclass(frozen=True)
class StagePolicy:
    """Weights by stage. A learned policy has the same `version` and `weights`, with more to look at."""

    version: str
    preferences: Mapping[Stage, Mapping[str, float]]

    @staticmethod
    def of(config: PolicyConfig) -> StagePolicy:
        """The policy of a recipe."""
        return StagePolicy(version=config.version, preferences=config.preferences)

    def weights(self, stage: Stage) -> dict[str, float]:
        """Action → weight (not normalised). A stage without preferences wants `none`."""
        return dict(self.preferences.get(stage, {NO_ACTION: 1.0}))
