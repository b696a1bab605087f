"""The contracts between the rooms, as Arrow schemas.

Times are UTC microseconds (int64 in sequences, timestamp[us, UTC] in logs). Windows are half-open. A fact used at
time t comes strictly from before t. Items inside sequences are rows of the `items` dataset (int32); row 0 is the
reserved "no item / unknown item".
"""

from __future__ import annotations

import pyarrow as pa

from clm_ray.errors import SchemaError

TIMESTAMP = pa.timestamp("us", tz="UTC")

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
"""Microseconds per day."""

LARGEST_VALUE = 3e38
"""Largest size of an event's value: histories hold it as a 32-bit float."""

EVENTS = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string()),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("value", pa.float64()),
        pa.field("decision_id", pa.string()),
        pa.field("context", pa.map_(pa.string(), pa.string())),
    ]
)
"""The interaction log. `event_id` is unique; `item_id` null for events without one; `decision_id` null unless the event
answers a served decision; `context[slot]` names the availability slot where there is one."""

ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("categories", pa.list_(pa.string()), nullable=False),
        pa.field("numeric", pa.map_(pa.string(), pa.float64())),
        pa.field("available_from", TIMESTAMP),
        pa.field("available_until", TIMESTAMP),
        pa.field("flags", pa.list_(pa.string())),
        pa.field("vectors", pa.list_(pa.float32())),
    ]
)
"""The catalogue. Row 0 is the reserved unknown item (empty id); the others are sorted by id. `vectors`: what else is known about an
item (of its picture, its place in a knowledge graph), of one length throughout; null where an item has none."""

CHANGED_ITEMS = pa.schema(
    [
        pa.field("changed_at", TIMESTAMP, nullable=False),
        pa.field("deleted", pa.bool_(), nullable=False),
        *(field.with_nullable(field.name != "item_id") for field in ITEMS),
    ]
)
"""Items that were put or deleted over HTTP, as the endpoint's store has them; of a deleted one its id alone."""

USERS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("categorical", pa.map_(pa.string(), pa.string())),
        pa.field("numeric", pa.map_(pa.string(), pa.float64())),
        pa.field("consent", pa.bool_(), nullable=False),
        pa.field("timezone", pa.string(), nullable=False),
    ]
)
"""The user table."""

AVAILABILITY = pa.schema(
    [pa.field("slot", pa.string(), nullable=False), pa.field("item_id", pa.string(), nullable=False)]
)
"""Which item was on offer in which slot (a store and week, a page, a day)."""

QUARANTINE = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
"""Rejected rows: where they stood, why, and their content as JSON."""

_INTS = pa.list_(pa.int32())
_TIMES = pa.list_(pa.int64())
_FLOATS = pa.list_(pa.float32())

SEQUENCES = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("window", pa.int32(), nullable=False),
        pa.field("ctx_item", _INTS),
        pa.field("ctx_event", _INTS),
        pa.field("ctx_value", _FLOATS),
        pa.field("ctx_time", _TIMES),
        pa.field("ctx_dense", pa.list_(_FLOATS)),
        pa.field("tgt_item", _INTS),
        pa.field("tgt_label", _FLOATS),
        pa.field("tgt_weight", _FLOATS),
        pa.field("tgt_offset", _FLOATS),
        pa.field("tgt_rating", _FLOATS),
        pa.field("tgt_time", _TIMES),
        pa.field("tgt_pos", _INTS),
        pa.field("tgt_split", _INTS),
        pa.field("tgt_dense", pa.list_(_FLOATS)),
        pa.field("ref_time", _TIMES),
        pa.field("ref_pos", _INTS),
        pa.field("ref_bin", _INTS),
        pa.field("ref_censored", _INTS),
        pa.field("ref_dense", pa.list_(_FLOATS)),
        pa.field("ref_value", _FLOATS),
        pa.field("ref_split", _INTS),
    ]
)
"""User windows with the train and valid targets (test lives in IMPRESSIONS and REFERENCES alone). `ctx_value`: raw values;
`ctx_dense`: features.tokens.TOKEN_VALUES of each event; `tgt_dense`, `ref_dense`: features as of t, named in features.json. `tgt_offset`: logit offset of the negative sampling, -log(kept share) (negatives popularity: of each item, beside an even draw), added to the logit in training only. `tgt_rating`: NaN where the target has none.
`tgt_pos`/`ref_pos`: how many context events of this row lie strictly before (0: the start token alone). `ref_bin`: hazard
bin of the next activity, or the number of bins when none was seen. `ref_censored`: number of bins seen in full (a bin seen
only in part contributes nothing). Splits: 0 train, 1 valid, 2 test."""

IMPRESSIONS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("time", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("item", _INTS, nullable=False),
        pa.field("label", _FLOATS, nullable=False),
        pa.field("weight", _FLOATS, nullable=False),
        pa.field("offset", pa.float32(), nullable=False),
        pa.field("split", pa.int32(), nullable=False),
    ]
)
"""What evaluation scores: one row per user and moment. `kind` `shown`: all candidates with their label; `catalogue`: the
items taken then (label 1 each), to be found among the whole catalogue. `offset`: added to the logits of the occasion's candidates."""

REFERENCES = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("time", pa.int64(), nullable=False),
        pa.field("bin", pa.int32(), nullable=False),
        pa.field("censored", pa.int32(), nullable=False),
        pa.field("value", pa.float32(), nullable=False),
        pa.field("split", pa.int32(), nullable=False),
    ]
)
"""Retention references for evaluation, the same that the sequences carry."""

INTERACTIONS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item", pa.int32(), nullable=False),
        pa.field("weight", pa.float32(), nullable=False),
        pa.field("events", pa.int32(), nullable=False),
    ]
)
"""The sparse interaction matrix X of the training period: one row per non-zero (user, item)."""

ITEM_STATISTICS = pa.schema(
    [
        pa.field("item", pa.int32(), nullable=False),
        pa.field("day", pa.int32(), nullable=False),
        pa.field("events", pa.float32(), nullable=False),
        pa.field("positives", pa.float32(), nullable=False),
        pa.field("total", pa.float64(), nullable=False),
        pa.field("ratings", pa.float32(), nullable=False),
        pa.field("rating_total", pa.float64(), nullable=False),
    ]
)
"""Dated item statistics: cumulative over days ≤ `day` (days since 1970), one row per item and day with an event; sorted by
item, day. `events`: context events with a label or value, `positives`: those with label 1, `total`: sum of ratings or spend,
`ratings`, `rating_total`: number and sum of the ratings alone.
At time t only rows of days strictly before t's day are used."""

NEIGHBOURS = pa.schema(
    [
        pa.field("relation", pa.int8(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("item", pa.int32(), nullable=False),
        pa.field("neighbour", pa.int32(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
    ]
)
"""Item neighbours per slice of time. `relation`: position in features.neighbours.RELATIONS; `end`: when the slice closed, UTC
microseconds: it holds events strictly before. At time t the last slice with end ≤ t is used."""

USER_NEIGHBOURS = pa.schema(
    [
        pa.field("relation", pa.int8(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("neighbour_id", pa.string(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
    ]
)
"""User neighbours per slice of time, where `neighbours.users` asks for them; `relation` and `end` as in NEIGHBOURS."""

TRAIN, VALID, TEST = 0, 1, 2
SPLITS = ("train", "valid", "test")


def slate_slot(decision_id: str) -> str:
    """The availability slot of a served slate."""
    return f"decision:{decision_id}"


def validate(table: pa.Table, schema: pa.Schema, *, name: str) -> pa.Table:
    """Return `table` with exactly the columns of `schema`, cast losslessly.

    Raises SchemaError naming the column where one is missing, cannot be cast, or holds nulls it must not hold.
    """
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            raise SchemaError(
                "column is missing", field=f"{name}.{field.name}", value=table.column_names, fix="map it in the recipe"
            )
        column = table.column(field.name)
        if not column.type.equals(field.type):
            try:
                column = column.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise SchemaError(
                    f"cannot be read as {field.type}: {error}", field=f"{name}.{field.name}", value=str(column.type)
                ) from error
        if not field.nullable and column.null_count:
            raise SchemaError("must not be null", field=f"{name}.{field.name}", value=f"{column.null_count} nulls")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)
