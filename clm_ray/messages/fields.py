"""What messages are made of: their bases, bounds, and kinds of fields."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

MAX_K = 500
"""Most items one recommendation may return."""

MAX_EVENTS = 1000
"""Most events one batch may carry."""

MAX_BATCH = 100
"""Most recommendations that one batch may ask for."""

MAX_CONTEXT = 32
"""Most entries of a context map."""

MAX_CANDIDATES = 100_000
"""Most candidates whatever the recipe says; `serve.max_candidates` of the served recipe is the limit that counts."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_LATEST = 4_102_444_800_000_000


def parse_time(value: object) -> int:
    """UTC microseconds from an integer or an ISO 8601 text with an offset. Raises ValueError saying what is wrong."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("is not an ISO 8601 time such as 2017-11-05T10:00:00Z") from None
        if moment.tzinfo is None:
            raise ValueError("has no offset: add Z for UTC, or +01:00")
        try:
            value = (moment - _EPOCH) // timedelta(microseconds=1)
        except OverflowError:
            raise ValueError("lies outside the years 1970 to 2099") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be an integer (UTC microseconds since 1970) or an ISO 8601 text with an offset")
    if not 0 <= value < _LATEST:
        raise ValueError("lies outside the years 1970 to 2099 (integers are microseconds since 1970)")
    return value


Time = Annotated[
    int,
    BeforeValidator(parse_time),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "integer",
                    "minimum": 0,
                    "exclusiveMaximum": _LATEST,
                    "description": "UTC microseconds since 1970",
                },
                {"type": "string", "format": "date-time", "description": "ISO 8601 with an offset"},
            ]
        },
        mode="validation",
    ),
]

NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f]*$"
"""A pattern, not a function: a request may name thousands of items, and each is checked."""

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_CONTROL_CHARACTERS)]

Context = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=64, pattern=NO_CONTROL_CHARACTERS)],
        Annotated[str, Field(max_length=256, pattern=NO_CONTROL_CHARACTERS)],
    ],
    Field(max_length=MAX_CONTEXT),
]

Probability = Annotated[float, Field(ge=0, le=1)]

Value = Annotated[float, Field(ge=-3e38, le=3e38)]
"""Histories hold it as a 32-bit float."""


class Ask(BaseModel):
    """Base of what a caller sends: strict, frozen, unknown fields refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Answer(BaseModel):
    """Base of what the endpoint returns."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)
