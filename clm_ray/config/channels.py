"""How users are reached: channels, their consent, their quiet hours, and how often is too often."""

from __future__ import annotations

from pydantic import Field, model_validator

from clm_ray.config.section import Section

_CLOCK = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"


class QuietHours(Section):
    """Hours of the user's own day in which nothing is delivered; they may reach over midnight."""

    begin: str = Field(pattern=_CLOCK)
    """Local time from which it is quiet, HH:MM."""
    end: str = Field(pattern=_CLOCK)
    """Local time at which quiet ends, HH:MM."""
    defer_hours: float = Field(default=24.0, ge=0)
    """A message that falls into quiet hours waits until they end, if that is no more than so many hours away and still in the decision period;
    otherwise the channel is excluded. 0: never wait."""

    @model_validator(mode="after")
    def _some_day(self) -> QuietHours:
        if self.begin == self.end:
            raise ValueError("begin and end are the same: say how long it is quiet, or leave quiet out")
        return self


class CapWindow(Section):
    """At most so many contacts within any so many days."""

    days: float = Field(gt=0)
    """Length of the rolling window, days."""
    most: int = Field(ge=0)
    """Contacts within it at most."""


class CapConfig(Section):
    """How often one user may be contacted."""

    windows: tuple[CapWindow, ...] = ()
    """Rolling windows; all of them hold."""
    min_gap_hours: float = Field(default=0.0, ge=0)
    """Least time between two contacts, hours."""


class ChannelConfig(Section):
    """One way to reach a user."""

    contact: bool = True
    """Does it interrupt the user? If not (a slate on the page they asked for), it counts for no cap."""
    needs_consent: bool = True
    """Only for users who consented."""
    consent_column: str | None = None
    """Categorical column of the user table with consent to this channel: `true`, `yes` or `1`; anything else, or nothing, is a no, and so is a
    no in general. Null: consent in general is enough. What the user told the endpoint of this channel later goes before both."""
    quiet: QuietHours | None = None
    """Quiet hours."""
    cap: CapConfig = CapConfig()
    """Caps of this channel, beside those over all channels."""
