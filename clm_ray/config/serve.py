"""What the endpoint does; how many replicas and which address it has stands in serve_configs/."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clm_ray.config.section import Section


class ServeConfig(Section):
    """Behaviour of the endpoint."""

    clock: Literal["wall", "log_end"] = "wall"
    """wall: real time. log_end: time starts at the log's last event when the store is first filled, then runs on (demo data)."""
    k: int = Field(default=10, ge=1, le=500)
    """Items returned when the request does not say."""
    max_candidates: int = Field(default=5000, ge=1)
    """Most candidates a request may give."""
    retrieve: int = Field(default=500, ge=1)
    """Candidates retrieved from the whole catalogue when the request gives none."""
    repeat: bool = True
    """May retrieved candidates be items the user already chose? True (groceries): they come first. False (films): they are left out."""
    impression_event: str = "impression"
    """Event type of the slates written back to the log."""
    future_seconds: float = Field(default=300.0, ge=0)
    """Events later than the endpoint's clock by more than this are refused, seconds."""


class StoreConfig(Section):
    """Where online state and durable logs live."""

    url: str | None = None
    """SQLAlchemy URL; None: SQLite `store.db` in the workspace."""
