"""What goes over the wire about users: what they said of themselves, what is kept of them, and their erasure."""

from __future__ import annotations

from typing import Annotated, Any
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field

from clm_ray.messages import Answer, Ask, Name

MAX_PAGE = 1000
"""Most records of one page."""


def _time_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("is not an IANA time zone such as Europe/Berlin")
    return name


TimeZone = Annotated[Name, AfterValidator(_time_zone)]


class UserSettings(Ask):
    """What a user told you; it goes before the release's user table, and replaces what was told before."""

    consent: bool | None = None
    """May the user be contacted? Null: as the user table says."""
    timezone: TimeZone | None = None
    """IANA time zone. Null: as the user table says."""


class UserSettingsAnswer(Answer):
    """What holds from now on."""

    user_id: str
    consent: bool | None
    timezone: str | None


class ExportedRecord(Answer):
    """One thing that is kept of a user."""

    kind: str
    """Where it is kept: `user_table` of the release, or a table of the store."""
    data: dict[str, Any]
    """As it is kept; times are UTC microseconds."""


class UserExport(Answer):
    """A page of what is kept of a user."""

    user_id: str
    time: int
    release: str
    records: Annotated[list[ExportedRecord], Field(max_length=MAX_PAGE)]
    """By kind, then in the order in which they came."""
    next: str | None
    """Ask again with this as `cursor` for the next page. Null: that was all."""


class Erasure(Answer):
    """What an erasure removed, and what is left to do."""

    user_id: str
    erased_at: int
    """Nothing of the time before this moment is taken in again; UTC microseconds."""
    removed: dict[str, int]
    """Table of the store → rows."""
    remains: str
    """What is still there, and how to remove it."""
