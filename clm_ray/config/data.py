"""Splits, impressions, retention references, features and sequences: everything `prepare` decides."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clm_ray.config.section import Section


class SplitConfig(Section):
    """How time (or each user's rows) is cut into train, valid and test."""

    protocol: Literal["time", "row_share", "per_user"] = "row_share"
    """time: by two dates. row_share: by shares of the target rows in time order. per_user: by shares of each user's rows."""
    train_end: str | None = None
    """protocol `time`: ISO date (UTC); targets before it are train."""
    valid_end: str | None = None
    """protocol `time`: ISO date (UTC); targets before it and not train are valid, the rest test."""
    valid_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Other protocols: share of rows for validation."""
    test_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Other protocols: share of rows for test."""
    embargo_days: float = Field(default=0.0, ge=0)
    """Targets and retention references of the last so many days of the train split, and of the validation split, are left out: what lies
    close to a cut resembles what lies behind it."""
    refit: bool = False
    """Use every target, the newest and those of served feedback included, for training; there is no validation and no test then."""

    @model_validator(mode="after")
    def _dates(self) -> SplitConfig:
        if self.protocol == "time" and (self.train_end is None or self.valid_end is None):
            raise ValueError("protocol time needs train_end and valid_end")
        return self


class ImpressionsConfig(Section):
    """Where negatives come from and how the probabilities are corrected for sampling them."""

    negatives: Literal["explicit", "availability", "popularity"] = "popularity"
    """explicit: the log has them. availability: from what was on offer in the event's slot. popularity: by popularity^alpha as of that day."""
    per_occasion: int = Field(default=8, ge=1)
    """Sampled negatives per occasion (one user and moment) in train and valid; the same for every occasion, so that the logit offset holds.
    negatives `popularity`: a drawn item that was taken is none, and the click probabilities are relative to so many negatives drawn evenly."""
    attribution_hours: float | None = Field(default=24.0, gt=0)
    """A click or purchase answers a slate, or an impression of its item (role negative), when it comes less than so many hours after it. A
    slate or impression younger than that at the end of its split, or of the log, is no target yet. None: answers to a slate count until the end
    of the split it lies in (later ones are no targets at all), impressions stay as they stand in the log (one without those that were taken), and
    nothing is waited for."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Exponent of popularity in the draws of train and valid. A logit offset makes up for it: it says what is learned from, not what is learned."""
    positives_per_occasion: int = Field(default=8, ge=1)
    """At most this many positives of one occasion become training targets (sampled, weighted up; all stay in the history)."""
    test_occasions: int = Field(default=800, ge=1)
    """Sampled negatives only: number of test occasions (user and moment) for which every candidate is ranked."""
    test_negatives: int = Field(default=200, ge=1)
    """negatives `popularity`: candidates drawn per test occasion beside its positives, evenly among the items with an event on a day before."""
    catalogue_occasions: int = Field(default=400, ge=0)
    """Number of test occasions for which the whole catalogue is ranked."""


class RetentionConfig(Section):
    """References for the retention head: users on a fixed calendar grid."""

    enabled: bool = True
    """Off for logs that cannot support a retention claim."""
    every_days: int = Field(default=7, ge=1)
    """Grid step, days; the grid starts at the day of the log's first event, 00:00 UTC."""
    active_within_days: int = Field(default=91, ge=1)
    """A user is on the grid while the last activity is at most this old, days."""
    report_days: tuple[int, ...] = Field(default=(7, 28), min_length=1)
    """Horizons reported and served, days; each must be the end of a hazard bin."""
    bin_ends: tuple[int, ...] = Field(default=(1, 2, 3, 7, 14, 28, 56), min_length=1)
    """Ends of the hazard bins, days (inclusive): 1, 2, 3, 4-7, 8-14, 15-28, 29-56."""
    treatments: tuple[str, ...] = ()
    """Event types by which the shop itself tries to keep users (a coupon sent, a campaign). A reference is followed only up to the first of
    them after it: the model then learns who comes back untreated, and being treated is not taken for being loyal. What was
    sent before a reference stays an input. Figures at a horizon are then about users who were not treated within it, and there is no output `value`
    (model.outputs). Empty: users are followed through what they are sent."""
    reason_off: str = ""
    """Said wherever the head is missing."""

    @model_validator(mode="after")
    def _bins(self) -> RetentionConfig:
        if list(self.bin_ends) != sorted(set(self.bin_ends)) or self.bin_ends[0] < 1:
            raise ValueError("bin_ends must rise strictly from at least 1")
        for days in self.report_days:
            if days not in self.bin_ends:
                raise ValueError(f"report_days {days} is not the end of a hazard bin {list(self.bin_ends)}")
        return self


class FeaturesConfig(Section):
    """Dense features and how they are selected."""

    windows_days: tuple[Annotated[int, Field(ge=1)], ...] = (7, 28, 91)
    """Windows of frequency and spend, days."""
    prior_strength: float = Field(default=10.0, gt=0)
    """Pseudo-counts that shrink item and user means towards the global mean, events."""
    max_history: int = Field(default=5000, ge=1)
    """Features look at the events of the day (UTC) and at most so many of the same user before that day, offline and online alike."""
    min_information: float = Field(default=1e-4, ge=0)
    """A feature whose mutual information with the label is below this (nats) is dropped as useless."""
    max_correlation: float = Field(default=0.999, gt=0, le=1)
    """Of two features with a larger absolute correlation, the later one is dropped as duplicated."""
    max_auc: float = Field(default=0.995, gt=0.5, le=1)
    """A feature that alone separates the labels better than this is dropped as leaking."""


class SequencesConfig(Section):
    """How long a user's context is and how the user sequences are cut."""

    max_context: int = Field(default=128, ge=1)
    """Context events the user tower sees before a target, offline and online alike."""
    body: int = Field(default=128, ge=1)
    """New events per window; a window carries `max_context` earlier events as its tail."""
    buckets: int = Field(default=16, ge=1)
    """Partitions: bucket = stable hash of the user id modulo this."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything `prepare` draws (negatives, samples of occasions)."""


class NeighboursConfig(Section):
    """Collaborative filtering: which items are neighbours, from who chose and who liked both; which users, from what both did."""

    slices: int = Field(default=8, ge=0)
    """Times at which the neighbours are computed anew, at equal shares of the labelled events; 0: no neighbours."""
    slice_days: int | None = Field(default=None, ge=1)
    """Compute them anew every so many days instead (midnights UTC, counted from 1970). Where slices of equal shares end hangs on the whole log, so a
    day of new events moves them all; these stay where they are, and so does what `prepare` made of users without new events."""
    top: int = Field(default=50, ge=1)
    """Neighbours kept per item and relation."""
    min_users: int = Field(default=5, ge=1)
    """An item with fewer users, or a pair with fewer in common, has no neighbours."""
    shrinkage: float = Field(default=20.0, ge=0)
    """Similarity is multiplied by n / (n + shrinkage) for n users in common."""
    users: int = Field(default=0, ge=0)
    """Neighbours kept per user and relation, for the baseline user-kNN of `evaluate`; 0: none. `min_users` and `shrinkage` then count items in
    common."""

    @model_validator(mode="after")
    def _slices(self) -> NeighboursConfig:
        if self.users and not self.slices:
            raise ValueError("users needs slices: at least 1")
        if self.slice_days and not self.slices:
            raise ValueError("slice_days needs slices: at least 1")
        return self
