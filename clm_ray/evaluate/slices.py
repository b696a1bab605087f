"""Slices: for whom, and for what, does the model work? Cold users, cold items, life-cycle stages.

Shape letters: N events of one user, Q moments, P rows of predictions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
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
    """(name, bool [P]) of each slice of a predictions table; empty slices are left out."""
    names = set(predictions.column_names)
    masks: list[tuple[str, NDArray[np.bool_]]] = []
    if "user_events" in names:
        events_P = predictions.column("user_events").to_numpy()
        cold_P = events_P < config.cold_user_events
        masks += [(f"users with < {config.cold_user_events} earlier events", cold_P), ("other users", ~cold_P)]
    if "item_events" in names:
        events_P = predictions.column("item_events").to_numpy()
        cold_P = events_P < config.cold_item_events
        masks += [(f"items with < {config.cold_item_events} training events", cold_P), ("other items", ~cold_P)]
    stage_P = stage_codes(predictions)
    masks += [(f"stage {stage}", stage_P == code) for code, stage in enumerate(STAGES)]
    for name, mask_P in masks:
        if mask_P.any():
            yield name, mask_P


def stage_column(code_P: NDArray[np.int8]) -> pa.DictionaryArray:
    """Stage codes as a column of names."""
    return pa.DictionaryArray.from_arrays(pa.array(code_P, pa.int8()), pa.array(STAGES))


def stage_codes(predictions: pa.Table) -> NDArray[np.int8]:
    """The inverse of `stage_column`, whatever order the file's dictionary has."""
    column = predictions.column("stage").combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.unify_dictionaries().chunk(0)
    position = np.array([STAGES.index(name) for name in column.dictionary.to_pylist()], np.int8)
    return position[column.indices.to_numpy()]
