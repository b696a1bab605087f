"""The life-cycle stage of each reference of a batch of windows, from the users' whole activity.

Windows hold no stages: the thresholds are learned once all windows are there.

Shape letters: R references.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clm_ray.lifecycle.stages import Thresholds, stages_at
from clm_ray.train.histories import Histories
from clm_ray.train.windows import Windows


@dataclass(frozen=True)
class ReferenceStages:
    """Finds stages in the histories of a dataset."""

    histories: Histories
    thresholds: Thresholds

    def at(self, windows: Windows) -> NDArray[np.int8]:
        """int8 [R]: the stage at each reference of the windows, one window after the other."""
        found = [np.empty(0, np.int8)]
        for user, reference in zip(windows.user, windows.reference, strict=True):
            if len(reference["time"]):
                history = self.histories.of_user(user)
                active_N = history.time_N[self.histories.vocabulary.is_activity(history)]
                found.append(stages_at(active_N, reference["time"], thresholds=self.thresholds))
        return np.concatenate(found)
