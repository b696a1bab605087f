"""Slices: for whom, and for what, does the model work? Cold users, cold items, life-cycle stages.

Shape letters: N events of one user, Q moments, P rows of predictions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clm_ray.config.evaluate import EvaluateConfig
from clm_ray.config.policy import STAGES
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.lifecycle.stages import Thresholds, stages_at


def context_events(history: History, time_Q: NDArray[np.int64], *, vocabulary: EventVocabulary) -> NDArray[np.int32]:
    """int32 [Q]: the user's context events strictly before each moment."""
    seen_N = history.time_N[vocabulary.is_context(history)]
    return np.searchsorted(seen_N, time_Q, side="left").astype(np.int32)


def stages(
    history: History, time_Q: NDArray[np.int64], *, vocabulary: EventVocabulary, thresholds: Thresholds
) -> NDArray[np.int8]:
    """int8 [Q]: life-cycle stage at each moment, a position in STAGES."""
    return stages_at(history.time_N[vocabulary.is_activity(history)], time_Q, thresholds=thresholds)


def slices_of(predictions: pa.Table, *, config: EvaluateConfig) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """(name, bool [P]) of each slice of a predictions table; stages that do not occur are left out."""
    cold_P = predictions.column("user_events").to_numpy() < config.cold_user_events
    yield f"users with < {config.cold_user_events} earlier events", cold_P
    yield "other users", ~cold_P
    cold_P = predictions.column("item_events").to_numpy() < config.cold_item_events
    yield f"items with < {config.cold_item_events} training events", cold_P
    yield "other items", ~cold_P
    stage_P = pc.index_in(predictions.column("stage"), value_set=pa.array(STAGES)).to_numpy()
    for code, stage in enumerate(STAGES):
        if (stage_P == code).any():
            yield f"stage {stage}", stage_P == code


def stage_column(code_P: NDArray[np.int8]) -> pa.Array:
    """Stage codes as a column of names."""
    return pa.array(STAGES).take(pa.array(code_P, pa.int8()))
