"""The build of one bucket in memory: made logs in, dataset rows out, and a flat view of the windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from made_logs import ITEMS, VOCABULARY, Row, label_of, source_of, table_of

from clm_ray.config.recipe import Recipe
from clm_ray.data.bucket import BucketBuilder
from clm_ray.data.bucket_result import BucketResult
from clm_ray.data.occasions import OccasionSource
from clm_ray.data.popularity import PopularityDraw
from clm_ray.data.references import reference_times
from clm_ray.data.slots import SlotTable
from clm_ray.data.splits import plan_splits
from clm_ray.schema import TIMESTAMP

OFFERS: Mapping[str, Sequence[int]] = {
    "front": (1, 2, 3, 4, 5),
    "back": (2, 6),
    "decision:d1": (1, 2, 3),
    "decision:d2": (4, 5, 6),
}


def builder_of(log: Sequence[Row], made: Recipe, *, log_end: int, activity_end: int | None = None) -> BucketBuilder:
    """A builder that knows the whole log's statistics and cuts. `log_end`, `activity_end`: the first moment after the log, after its
    last activity."""
    offers = [(slot, ITEMS[item]) for slot, items in OFFERS.items() for item in items]
    slots = SlotTable.build(
        pa.table({"slot": [s for s, _ in offers], "item_id": [i for _, i in offers]}), pa.table({"item_id": ITEMS})
    )
    labelled = [row for row in log if label_of(row) is not None]
    table = pa.table(
        {
            "timestamp": pa.array([row.time for row in labelled], TIMESTAMP),
            "user_id": pa.array([row.user for row in labelled], pa.string()),
            "item_id": pa.array([ITEMS[row.item] for row in labelled], pa.string()),
        }
    )
    source = source_of(log, made)
    return BucketBuilder(
        recipe=made,
        source=source,
        occasions=OccasionSource(
            made.impressions,
            VOCABULARY,
            slots,
            PopularityDraw(source.statistics, made.impressions.alpha, made.impressions.per_occasion),
            VOCABULARY.index[made.serve.impression_event],
            made.sequences.seed,
        ),
        plan=plan_splits(made.split, table, log_end=log_end, activity_end=activity_end or log_end),
        grid_R=reference_times(made, min((row.time for row in log), default=0), log_end - 1),
    )


def build(log: Sequence[Row], made: Recipe, *, log_end: int, activity_end: int | None = None) -> BucketResult:
    """Everything that the build makes of the log."""
    return builder_of(log, made, log_end=log_end, activity_end=activity_end).build(table_of(log))


class Target(NamedTuple):
    """One target of a window with everything that the model is given for it."""

    user: str
    time: int
    item: int
    label: float
    weight: float
    offset: float
    split: int
    dense: tuple[float, ...]
    context: tuple[tuple[int, int, int], ...]
    tokens: tuple[tuple[float, ...], ...]


class Reference(NamedTuple):
    """One retention reference of a window."""

    user: str
    time: int
    bin: int
    seen: int
    value: float
    split: int
    dense: tuple[float, ...]
    context: tuple[tuple[int, int, int], ...]


def targets_of(result: BucketResult) -> list[Target]:
    """Targets of all windows, by user, time and item; `context`: (item, event, time) of everything before them in the row."""
    found = []
    for window in result.windows:
        for t, position in enumerate(window["tgt_pos"]):
            values = [
                window[f"tgt_{name}"][t].item() for name in ("time", "item", "label", "weight", "offset", "split")
            ]
            tokens = tuple(map(tuple, window["ctx_dense"][:position].tolist()))
            dense = tuple(window["tgt_dense"][t].tolist())
            found.append(Target(window["user_id"], *values, dense, _context(window, position), tokens))
    return sorted(found, key=lambda target: target[:4])


def references_of(result: BucketResult) -> list[Reference]:
    """References of all windows, by user and time."""
    found = []
    for window in result.windows:
        for r, position in enumerate(window["ref_pos"]):
            values = [window[f"ref_{name}"][r].item() for name in ("time", "bin", "censored", "value", "split")]
            dense = tuple(window["ref_dense"][r].tolist())
            found.append(Reference(window["user_id"], *values, dense, _context(window, position)))
    return sorted(found, key=lambda reference: reference[:2])


def _context(window: dict[str, Any], position: int) -> tuple[tuple[int, int, int], ...]:
    columns = (window[name][:position].tolist() for name in ("ctx_item", "ctx_event", "ctx_time"))
    return tuple(zip(*columns, strict=True))
