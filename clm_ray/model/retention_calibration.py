"""Calibration of the chance to come back, by life-cycle stage, on validation references (which are later than those of training).

Each stage has a Platt scaling of the hazard logits, one for all bins: z' = slope · z + intercept. Fitted are the hazards of every bin
that was seen, not the chance at one horizon: so references that the log follows only in part count for what was seen of them, the
chances at all horizons follow from one set of hazards, and none falls as the days rise. A stage of few validation references takes
what all stages together gave.

Shape letters: R references (a user at a moment), B asked users, J hazard bins. Stages are positions in STAGES.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clm_ray.config.stages import STAGES, Stage
from clm_ray.model.calibration import IDENTITY, Calibration

FEWEST_REFERENCES = 200
"""A stage of fewer validation references has no calibration of its own."""
FEWEST_SILENT = 30
"""Nor has one in which fewer references passed their whole seen time without a return, or fewer came back."""


@dataclass(frozen=True)
class RetentionCalibration:
    """pooled: of all stages together; by_stage: of the stages that have one of their own."""

    pooled: Calibration = IDENTITY
    by_stage: Mapping[Stage, Calibration] = field(default_factory=dict)

    @staticmethod
    def fit(
        logit_RJ: NDArray[np.float64],
        *,
        bin_R: NDArray[np.int64],
        seen_R: NDArray[np.int64],
        stage_R: NDArray[np.int8],
        kind: Literal["platt", "none"] = "platt",
    ) -> RetentionCalibration:
        """`bin_R`: bin of the next activity (J: none was seen), `seen_R`: bins that the log shows in full, `stage_R`: the stage at the
        reference. A calibration that does not lower the log loss of its hazards is the identity; without references all are.
        """
        if kind == "none":
            return RetentionCalibration()
        pooled = _fit(logit_RJ, bin_R, seen_R)
        own: dict[Stage, Calibration] = {}
        for code, stage in enumerate(STAGES):
            mine_R = stage_R == code
            back = int((bin_R[mine_R] < seen_R[mine_R]).sum())
            if mine_R.sum() >= FEWEST_REFERENCES and min(back, int(mine_R.sum()) - back) >= FEWEST_SILENT:
                own[stage] = _fit(logit_RJ[mine_R], bin_R[mine_R], seen_R[mine_R])
        return RetentionCalibration(pooled, own)

    def of(self, stage: Stage) -> Calibration:
        """What users of a stage are calibrated by."""
        return self.by_stage.get(stage, self.pooled)

    def apply(self, logit_BJ: Tensor, stage_B: NDArray[np.int8]) -> Tensor:
        """Calibrated hazard logits [B, J] of users in the given stages."""
        every = [self.of(stage) for stage in STAGES]
        slope_S, intercept_S = (
            torch.tensor([getattr(one, name) for one in every], dtype=logit_BJ.dtype, device=logit_BJ.device)
            for name in ("slope", "intercept")
        )
        stage = torch.from_numpy(stage_B.astype(np.int64)).to(logit_BJ.device)
        return slope_S[stage, None] * logit_BJ + intercept_S[stage, None]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"pooled": asdict(self.pooled), "by_stage": {name: asdict(one) for name, one in self.by_stage.items()}}

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> RetentionCalibration:
        """Inverse of `to_dict`."""
        own: dict[Stage, Calibration] = {name: Calibration.from_dict(one) for name, one in raw["by_stage"].items()}
        return RetentionCalibration(Calibration.from_dict(raw["pooled"]), own)


UNCALIBRATED = RetentionCalibration()
"""No calibration."""


def _fit(logit_RJ: NDArray[np.float64], bin_R: NDArray[np.int64], seen_R: NDArray[np.int64]) -> Calibration:
    """By the likelihood of the hazards: a row for each bin that was seen, up to that of the return."""
    bin_J = np.arange(logit_RJ.shape[1])
    at_risk_RJ = (bin_J <= bin_R[:, None]) & (bin_J < seen_R[:, None])
    label_RJ = (bin_J == bin_R[:, None]).astype(np.float64)
    logit_N, label_N = logit_RJ[at_risk_RJ], label_RJ[at_risk_RJ]
    found = Calibration.fit(logit_N, label_N, weight_N=np.ones(len(logit_N)), offset_N=np.zeros(len(logit_N)))
    return Calibration(found.kind, found.slope, found.intercept, rows=len(logit_RJ))
