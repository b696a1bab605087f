"""What goes over the wire about items: what is put into the catalogue, and what is taken out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clm_ray.messages import Answer, Ask, Name, Time

MAX_ITEMS = 1000
"""Most items of one request, and of one page."""
MAX_TEXT = 20_000
"""Most characters of an item's text."""

Number = Annotated[float, Field(ge=-3e38, le=3e38)]


class Item(Ask):
    """An item as it is from now on; it replaces what was known of it."""

    item_id: Name
    """The item."""
    text: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """What the model reads, made as the recipe's template makes it. Empty: the id."""
    categories: Annotated[list[Name], Field(max_length=100)] = Field(default_factory=list)
    """As in the catalogue. One that the release does not know says nothing to its model."""
    numeric: Annotated[dict[Name, Number], Field(max_length=100)] = Field(default_factory=dict)
    """Numbers by name."""
    vectors: Annotated[list[Number], Field(min_length=1, max_length=8192)] | None = None
    """Further vector (of an image, for example), of the length that the model was trained with."""
    available_from: Time | None = None
    """Offered from this moment on. Null: always was."""
    available_until: Time | None = None
    """Offered before this moment only. Null: for good."""
    flags: Annotated[list[Name], Field(max_length=100)] = Field(default_factory=list)
    """For rules."""


class ItemsRequest(Ask):
    """Items to put. All or none: one that is wrong refuses the request."""

    items: Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS)]
    """The items."""


class ItemVerdict(Answer):
    """What became of one item."""

    item_id: str
    status: Literal["rankable", "stored"]
    """rankable: durable and encoded; every replica ranks it within about a second. stored: durable; it will be encoded, see `note`."""
    note: str | None = None
    """Why it is not rankable yet."""


class ItemsAnswer(Answer):
    """Given only when every item is durable."""

    items: list[ItemVerdict]
    """In the order of the request."""


class ItemDeleted(Answer):
    """The item is no longer offered."""

    item_id: str
    deleted: bool


class StoredItem(Answer):
    """An item that was put or deleted since the release's catalogue was made."""

    item_id: str
    deleted: bool
    text: str | None = None
    categories: list[str] | None = None
    numeric: dict[str, float] | None = None
    vectors: list[float] | None = None
    available_from: int | None = None
    """UTC microseconds."""
    available_until: int | None = None
    """UTC microseconds."""
    flags: list[str] | None = None


class ItemPage(Answer):
    """A page of items, by id."""

    items: list[StoredItem]
    next: str | None
    """Ask again with this as `cursor` for the next page. Null: that was all."""
