"""Where the log, the catalogue and the user table come from, and what their columns mean."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from clm_ray.config.section import Section

Role = Literal["positive", "negative", "context", "activity"]


def _code_as_text(name: Any) -> Any:
    """YAML reads the key of `1: purchase` as a number."""
    return str(name) if type(name) is int else name


RawName = Annotated[str, BeforeValidator(_code_as_text)]
"""An event's name as the log has it; a number stands for its digits."""


class EventTypeConfig(Section):
    """What one event type means to the model and to the life cycle."""

    roles: tuple[Role, ...]
    """positive: a label 1. negative: a label 0. context: seen by the user tower. activity: counts as being alive."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of a target of this type in the click loss and the click metrics."""
    value: Literal["none", "amount", "rating"] = "none"
    """What the `value` column holds: nothing, money (log-scaled, summed as spend), or a rating (residual against its baseline)."""
    positive_from: float | None = None
    """With `value: rating`: a rating of at least this is positive, one below is negative."""

    @model_validator(mode="after")
    def _one_label(self) -> EventTypeConfig:
        if {"positive", "negative"} <= set(self.roles):
            raise ValueError("an event type is positive or negative, not both; ratings have positive_from instead")
        if self.positive_from is not None and self.value != "rating":
            raise ValueError(f"positive_from {self.positive_from} needs `value: rating`, not {self.value}")
        return self


UNNAMED = EventTypeConfig.model_construct(_fields_set=set(), roles=())
"""An event type without roles that no recipe has named: nothing is set in it."""


class TableConfig(Section):
    """One table of files."""

    paths: tuple[str, ...] = Field(min_length=1)
    """Files, folders or globs; local, or any pyarrow filesystem URI (s3://, gs://, ...)."""
    format: Literal["parquet", "csv", "jsonl"] = "parquet"
    """File format; compressed CSV and JSONL (.gz) are recognised by their ending."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Contract column → column in the file. Columns not named keep their name. `outer.inner` is a column within an object (a struct of
    Parquet, an object of JSON lines); a folder of the path `name=value` (Hive partitions) is a column too, where the file has none of that name."""
    delimiter: str = ","
    """CSV delimiter: one ASCII character; `\\t`, also written as these two characters, is the tab."""
    timezone: str = "UTC"
    """Zone of times without an offset (IANA name)."""
    time_unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    """Unit of numeric times since 1970; `auto` decides by magnitude, and refuses what is ambiguous: numbers below 1e8, and 6.2e17 to 6.8e17,
    which may be ticks of .NET (convert those: seconds = ticks / 1e7 - 62135596800)."""

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, delimiter: str) -> str:
        delimiter = "\t" if delimiter == "\\t" else delimiter
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
            raise ValueError('one ASCII character is needed, not a quote or a line break, e.g. ";" or "\\t"')
        return delimiter


class EventsTableConfig(TableConfig):
    """The interaction log."""

    context_columns: tuple[str, ...] = ()
    """Columns kept in the `context` map of each event."""
    event_type: str | None = None
    """Event type of every row, for a log without such a column."""
    event_type_map: dict[RawName, str] = Field(default_factory=dict)
    """Raw event name → event type of this recipe. Names not listed must be event types themselves."""


class ItemsTableConfig(TableConfig):
    """The catalogue."""

    text: str = "{item_id}"
    """Template of the text that the encoder reads; `{column}` is replaced by the column's value."""
    categories: tuple[str, ...] = ()
    """Columns (scalar or list) whose values become the item's categories."""
    numeric: tuple[str, ...] = ()
    """Numeric columns kept with the item; not used yet."""
    vectors: str | None = None
    """Column with a vector of numbers for each item (of its image, its sound, its place in a knowledge graph): a list, or a text such as
    `0.1 -2 3.5`. All of one length; an item may have none."""
    separator: str = ""
    """Splits a category column that holds several values in one string; empty: do not split."""


class UsersTableConfig(TableConfig):
    """The user table."""

    categorical: tuple[str, ...] = ()
    """Columns read as categories. They enter the model at every past moment: none may have been computed later (an RFM segment)."""
    numeric: tuple[str, ...] = ()
    """Columns read as numbers. They enter the model at every past moment: none may have been computed later (lifetime orders)."""
    consent: str | None = None
    """Boolean column: may this user be treated? None: everyone consented."""
    timezone_column: str | None = None
    """Column with the user's IANA time zone. None: UTC."""


class SourceConfig(Section):
    """What `prepare` reads."""

    kind: Literal["complete_journey", "movielens_100k", "files"]
    """Adapter: two public data sets, or your own files."""
    path: str | None = None
    """Folder of the public data set's files; None: the installed package (or, for MovieLens, the downloaded wheel)."""
    events: EventsTableConfig | None = None
    """kind `files`: the interaction log."""
    items: ItemsTableConfig | None = None
    """kind `files`: the catalogue; None: the items of the log, with their id as text."""
    users: UsersTableConfig | None = None
    """kind `files`: the user table; None: the users of the log."""
    availability: TableConfig | None = None
    """kind `files`: which item was on offer in which slot (`slot`, `item_id`); events name their slot in `context[slot]`."""
    feedback: bool = True
    """Also read the events that `jobs/compact.py` wrote back from the endpoint."""


Reason = Literal[
    "broken line",
    "missing user_id",
    "inexact id",
    "unreadable id",
    "unparsable time",
    "time before clean.earliest",
    "time in the future",
    "unknown event type",
    "value is not a number",
    "missing item_id",
    "event_id used twice",
]
"""Why a row of the log is rejected."""


class CleanConfig(Section):
    """When a row is rejected, and when too many are."""

    max_rejected_share: float = Field(default=0.05, ge=0, le=1)
    """prepare fails when a larger share of the rows is rejected: of the log, of the catalogue, of the user table or of the availability."""
    max_rejected: dict[Reason, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    """Further bounds, by reason: prepare fails when a larger share of the log's rows is rejected for it, e.g. `{unparsable time: 0}`."""
    future_days: float = Field(default=1.0, ge=0)
    """Events later than the clock by more than this are rejected, days."""
    earliest: str = "1990-01-01"
    """Events before this date are rejected; 1970-01-01 or later."""
