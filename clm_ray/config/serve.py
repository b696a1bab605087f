"""What the endpoint does; how many replicas and which address it has stands in serve_configs/."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from clm_ray.config.section import Section


class ShopRule(Section):
    """One rule of the shop for the items that it names: by id, by category or by flag; an item named in any of these ways is meant."""

    do: Literal["exclude", "boost", "pin"]
    """exclude: never shown. boost: moved up or down. pin: always shown, at a place of its own."""
    items: tuple[str, ...] = ()
    """Item ids."""
    categories: tuple[str, ...] = ()
    """Names of categories, as `explain` shows them."""
    flags: tuple[str, ...] = ()
    """Flags of the items table."""
    times: float = Field(default=1.5, gt=0)
    """boost: what the odds that decide the order are multiplied by; below 1 moves down."""
    place: int = Field(default=1, ge=1)
    """pin: the place of the first such item; further ones follow in the order of the catalogue."""

    @model_validator(mode="after")
    def _names_something(self) -> ShopRule:
        if not (self.items or self.categories or self.flags):
            raise ValueError("a rule names items, categories or flags")
        return self


class FreshnessConfig(Section):
    """New items are moved up for a while: their odds in the order are multiplied by times^(0.5^(age / half_life_days))."""

    times: float = Field(default=2.0, gt=1)
    """For an item that is available since this moment; items whose `available_from` is not known are not moved."""
    half_life_days: float = Field(default=14.0, gt=0)
    """Days since `available_from` after which half of it (of its logarithm) is left."""


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
    exact_items: int = Field(default=200_000, ge=0)
    """Larger catalogues are searched with an approximate index, which publishing adds to the release (needs `pip install 'clm-ray[index]'`)."""
    rules: tuple[ShopRule, ...] = ()
    """The shop's own rules. They change the order and what is in it, never a probability; the slate's log says that they did."""
    diversity: float = Field(default=0.0, ge=0, lt=1)
    """How much unlike what is above it an item should be: weight of the greatest similarity to an item chosen before (maximal marginal relevance). 0: off. Requests may say otherwise."""
    freshness: FreshnessConfig | None = None
    """None: new items are not moved up."""
    impression_event: str = "impression"
    """Event type of the slates written back to the log. Rows of your own log may have it only where `event_types` names it."""
    future_seconds: float = Field(default=300.0, ge=0)
    """Events later than the endpoint's clock by more than this are refused, seconds."""


class StoreConfig(Section):
    """Where online state and durable logs live."""

    url: str | None = None
    """sqlite:////path or postgresql://user@host/database; None: SQLite `store.db` in the workspace. `?connections=8`: most connections that
    each process keeps open. It is written into releases: leave the password to PGPASSFILE, ~/.pgpass or PGPASSWORD."""
