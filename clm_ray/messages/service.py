"""What is being served, within which bounds, and whether it can answer."""

from __future__ import annotations

from typing import Literal

from clm_ray.messages.fields import Answer


class Limits(Answer):
    """Bounds of requests."""

    default_k: int
    max_k: int
    max_candidates: int
    max_events: int
    max_batch: int


class Version(Answer):
    """What is being served."""

    name: str
    version: str
    """Version of the software."""
    release: str
    """The release being served."""
    recipe: str
    clock: Literal["wall", "log_end"]
    """log_end: the clock continues from the end of a demo log that lies in the past."""
    time: int
    """Now, by that clock, UTC microseconds."""
    event_types: list[str]
    """Event types that /v1/events takes."""
    limits: Limits


class Readiness(Answer):
    """Whether every part can answer, and the release each part has loaded."""

    ready: bool
    release: str
    parts: dict[str, str]
    """Part → the release it has loaded, or why it is not ready."""
