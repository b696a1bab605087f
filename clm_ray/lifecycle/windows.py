"""Label windows: when a user is asked about, what came next, and how much of the answer the log can show.

Shape letters: N activities of one user, oldest first. R reference times. B hazard bins.

Everything here is half-open. At a reference time `ref` the past is `[.., ref)` and the future `[ref, ..)`. Bin j covers the
days (end_{j-1}, end_j] after the reference, which as a time interval is

    [ref + end_{j-1} days, ref + end_j days)        with end_{-1} = 0

so an activity exactly at `ref` lies in bin 0, and one exactly `end_0` days later in bin 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clm_ray.schema import DAY_US


def reference_grid(first_us: int, last_us: int, every_days: int) -> NDArray[np.int64]:
    """Reference times: 00:00 UTC of every `every_days`-th day, from the day of `first_us` to at most `last_us`.

    The grid is the calendar's, the same for every user: a grid tied to a user's own last event would know the future.
    Returns int64 µs [R], rising; empty when the log is empty (`last_us` < `first_us`).
    """
    if last_us < first_us:
        return np.empty(0, np.int64)
    start = first_us // DAY_US * DAY_US
    return np.arange(start, last_us + 1, every_days * DAY_US, dtype=np.int64)


def next_activity_bins(
    activity_time_N: NDArray[np.int64],
    ref_time_R: NDArray[np.int64],
    *,
    bin_ends: Sequence[int],
    log_end_us: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The bin of each reference's next activity, and how many bins the log shows in full.

    `activity_time_N`: µs, sorted. `bin_ends`: days, rising strictly. `log_end_us`: the first moment that is no longer
    observed; bin j was seen when ref + end_j days ≤ log_end_us.

    Returns (bin_R, seen_bins_R), int32. `bin_R` is the bin of the first activity at or after the reference, or B when
    none was seen: either there is none, or it falls in a bin that was not observed to its end (such a bin
    contributes nothing, so that a log that stops early does not make its last users look quick to return).
    Always bin_R < seen_bins_R or bin_R == B.
    """
    ends_B = np.asarray(bin_ends, np.int64) * DAY_US
    none = len(ends_B)
    seen_R = np.searchsorted(ends_B, log_end_us - ref_time_R, side="right")
    next_R = np.searchsorted(activity_time_N, ref_time_R, side="left")
    exists_R = next_R < len(activity_time_N)
    bin_R = np.full(len(ref_time_R), none, np.int64)
    delay = activity_time_N[next_R[exists_R]] - ref_time_R[exists_R]
    bin_R[exists_R] = np.searchsorted(ends_B, delay, side="right")
    bin_R[bin_R >= seen_R] = none
    return bin_R.astype(np.int32), seen_R.astype(np.int32)


def on_grid(
    activity_time_N: NDArray[np.int64], ref_time_R: NDArray[np.int64], active_within_days: int
) -> NDArray[np.bool_]:
    """Which references count for this user: the last activity before the reference is at most `active_within_days` old.

    Only activity strictly before the reference is looked at, so a user is on the grid or not by the past alone.
    """
    past_R = np.searchsorted(activity_time_N, ref_time_R, side="left")
    known_R = past_R > 0
    result = np.zeros(len(ref_time_R), np.bool_)
    silence = ref_time_R[known_R] - activity_time_N[past_R[known_R] - 1]
    result[known_R] = silence <= active_within_days * DAY_US
    return result


def first_after(time_N: NDArray[np.int64], ref_time_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [R]: the first of `time_N` (µs, sorted) at or after each reference; the largest number where there is none."""
    return np.append(time_N, np.iinfo(np.int64).max)[np.searchsorted(time_N, ref_time_R, side="left")]
