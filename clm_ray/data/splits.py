"""Which split a target and a retention reference belong to.

Click targets: by two dates, by shares of the labelled rows in time order, or by shares of each user's rows. Retention
references: by two moments; a label never looks past the end of its split (it is censored there), so no train label
overlaps the validation or test period.

Shape letters: T targets of one user, R references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clm_ray.config.data import SplitConfig
from clm_ray.errors import ConfigError, DataError
from clm_ray.schema import DAY_US, TEST, TRAIN, VALID

Key = tuple[int, int | str, int | str]
"""(time, user, item): the order of labelled rows. Ids that are all whole numbers are compared as numbers."""


def microseconds(date: str, *, field: str) -> int:
    """UTC microseconds of an ISO date or time (no offset means UTC). Raises ConfigError."""
    try:
        moment = datetime.fromisoformat(date)
    except ValueError as error:
        raise ConfigError("not an ISO date", field=field, value=date, fix="write e.g. 2017-09-24") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000_000)


@dataclass(frozen=True)
class SplitPlan:
    """Where the cuts lie. For row shares the cut is a whole key, so that ties in time are cut as the row order says."""

    config: SplitConfig
    train_end: int
    valid_end: int
    log_end: int
    activity_end: int
    """The first moment after the log's last activity: beyond it nobody could be seen to come back."""
    train_cut: Key | None = None
    valid_cut: Key | None = None
    numeric_users: bool = False
    numeric_items: bool = False

    def of_targets(self, user: str, time_T: NDArray[np.int64], items: Sequence[str]) -> NDArray[np.int32]:
        """int32_T: split of each target of one user; for per_user the rows must be all labelled rows of the user.

        `items`: ids of the target's item; empty for an occasion as a whole.
        """
        if self.config.refit:
            return np.full(len(time_T), TRAIN, np.int32)
        if self.config.protocol == "per_user":
            return self._last_rows(time_T, items)
        split = np.where(time_T < self.train_end, TRAIN, np.where(time_T < self.valid_end, VALID, TEST)).astype(
            np.int32
        )
        for cut, moment, below in ((self.valid_cut, self.valid_end, VALID), (self.train_cut, self.train_end, TRAIN)):
            if cut is None:
                continue
            for t in np.flatnonzero(time_T == moment).tolist():
                key = (int(time_T[t]), _id(user, self.numeric_users), _id(items[t], self.numeric_items))
                parts = 3 if items[t] else 2  # an occasion without an item is split whole, by time and user
                if key[:parts] < cut[:parts]:
                    split[t] = min(split[t], below)
        return split

    def ends(self, split_T: NDArray[np.int32], time_T: NDArray[np.int64]) -> NDArray[np.int64]:
        """[3]: the first moment after each split, µs; at shares of each user's rows that of the user whose rows these are."""
        end_S = np.array([self.train_end, self.valid_end, self.log_end])
        if self.config.refit:
            end_S[:] = self.log_end
        elif self.config.protocol == "per_user":
            for split in (VALID, TRAIN):
                end_S[split] = time_T[split_T > split].min(initial=self.log_end)
        return end_S

    def usable(
        self, split_T: NDArray[np.int32], time_T: NDArray[np.int64], final_T: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """bool_T: which targets count. Not those of the embargo before the end of their split, nor those whose label was not yet known
        there, or at the end of the log. `final_T`: the moment from which a label is known (`time_T` where it is at once). All of one user."""
        end_S = self.ends(split_T, time_T)
        embargo_S = np.array([self.embargo_us, self.embargo_us, 0])
        # At row shares a target may lie at the very moment of the cut.
        close_T = (embargo_S[split_T] > 0) & (time_T >= end_S[split_T] - embargo_S[split_T])
        unknown_T = (final_T > time_T) & (final_T > end_S[split_T])
        return ~close_T & ~unknown_T

    @property
    def embargo_us(self) -> int:
        """Length of the embargo before the end of the train split and of the validation split, µs; none where all is train."""
        return 0 if self.config.refit else int(self.config.embargo_days * DAY_US)

    def _last_rows(self, time_T: NDArray[np.int64], items: Sequence[str]) -> NDArray[np.int32]:
        order = sorted(range(len(time_T)), key=lambda t: (time_T[t], _id(items[t], self.numeric_items)))
        test = max(1, int(len(order) * self.config.test_share))
        valid = max(1, int(len(order) * self.config.valid_share))
        split = np.zeros(len(order), np.int32)
        split[order[-(test + valid) :]] = VALID
        split[order[-test:]] = TEST
        return split

    def of_references(self, time_R: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(split, moment at which the label is censored) of each reference. In an embargo it is censored at once: it says nothing."""
        if self.config.refit:
            return np.zeros(len(time_R), np.int32), np.full(len(time_R), self.activity_end)
        split = np.where(time_R < self.train_end, TRAIN, np.where(time_R < self.valid_end, VALID, TEST)).astype(
            np.int32
        )
        end_R = np.array([self.train_end, self.valid_end, self.log_end])[split]
        embargo_R = np.array([self.embargo_us, self.embargo_us, 0])[split]
        end_R = np.where(time_R >= end_R - embargo_R, time_R, end_R)
        return split, np.minimum(end_R, self.activity_end)


def _id(value: str, numeric: bool) -> int | str:
    """A part of a key. Where the labelled rows have numbers, an id that is none (it was never labelled) comes first."""
    if not numeric:
        return value
    return int(value) if value.isascii() and value.isdigit() else -1


def plan_splits(config: SplitConfig, labelled: pa.Table, *, log_end: int, activity_end: int) -> SplitPlan:
    """Fix the cuts. `labelled`: columns timestamp, user_id, item_id of every labelled row (protocols by rows only).
    `log_end`, `activity_end`: the first moment after the log's last event, after its last activity.

    Raises DataError where a split would be empty.
    """
    if config.protocol == "time":
        assert config.train_end is not None
        assert config.valid_end is not None
        train_end = microseconds(config.train_end, field="split.train_end")
        valid_end = microseconds(config.valid_end, field="split.valid_end")
        if not (train_end < valid_end <= log_end) and not config.refit:
            raise ConfigError(
                "the dates do not lie in order before the end of the log",
                field="split",
                value=f"train_end={config.train_end}, valid_end={config.valid_end}, "
                f"log_end={datetime.fromtimestamp(log_end / 1e6, UTC).isoformat()}",
                fix="choose train_end < valid_end < the log's last event",
            )
        return SplitPlan(config, train_end, valid_end, log_end, activity_end)
    rows = labelled.num_rows
    if rows < 10:
        raise DataError("too few labelled events to split", field="split", value=rows, fix="bring at least 10")
    users, numeric_users = _order_column(labelled.column("user_id"))
    items, numeric_items = _order_column(labelled.column("item_id"))
    times = pc.cast(labelled.column("timestamp"), pa.int64())
    order = pc.sort_indices(
        pa.table({"t": times, "u": users, "i": items}),
        sort_keys=[("t", "ascending"), ("u", "ascending"), ("i", "ascending")],
    )

    def key_at(share: float) -> Key:
        row = order[min(int(rows * share), rows - 1)].as_py()
        return times[row].as_py(), users[row].as_py(), items[row].as_py()

    train_cut = key_at(1 - config.valid_share - config.test_share)
    valid_cut = key_at(1 - config.test_share)
    return SplitPlan(
        config,
        train_cut[0],
        valid_cut[0],
        log_end,
        activity_end,
        train_cut,
        valid_cut,
        numeric_users,
        numeric_items,
    )


def _order_column(ids: pa.ChunkedArray) -> tuple[pa.ChunkedArray, bool]:
    distinct = pc.unique(ids)
    numeric = bool(pc.all(pc.match_substring_regex(distinct, r"^(0|[1-9][0-9]{0,17})$")).as_py())
    return (pc.cast(ids, pa.int64()), True) if numeric else (ids.cast(pa.string()), False)
