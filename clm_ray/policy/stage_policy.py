"""Fixed preferences per life-cycle stage: the policy of kind `stage`, which needs no estimate of anything."""

from __future__ import annotations

from clm_ray.config.policy import NO_ACTION, PolicyConfig, Stage


def stage_weights(config: PolicyConfig, stage: Stage) -> dict[str, float]:
    """Action → weight (not normalised). A stage without preferences wants `none`."""
    return dict(config.preferences.get(stage, {NO_ACTION: 1.0}))
