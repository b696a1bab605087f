"""Do train, valid and test look alike? Features, event types and activity of the splits, from the counts of all buckets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clm_ray.data.bucket_figures import TRAINED, BucketFigures, Frame
from clm_ray.data.tally import VALUE_BINS, Ints, Tally
from clm_ray.features.spec import FeatureSpec, Selection
from clm_ray.metrics.drift import equal_groups, index_by_chance, stability_index
from clm_ray.schema import DAY_US, SPLITS


@dataclass(frozen=True)
class FeatureDrift:
    """Population stability index of one selected feature, valid against train, over groups of about equal train rows. by_chance: what
    independent rows without drift would show on average."""

    block: str
    feature: str
    index: float
    by_chance: float


@dataclass(frozen=True)
class SplitActivity:
    """The events of one split's stretch of time. mix: share of each event type; mix_index: its population stability index against train.
    users: with an activity; active_per_day: users active on an average day. None where it is hidden, or the split has no events."""

    split: str
    days: float
    events: int | None
    mix: Mapping[str, float] | None
    mix_index: float | None
    users: int | None
    active_per_day: float | None


@dataclass(frozen=True)
class Drift:
    """features: most drifted first; empty where train or valid has no rows. splits: empty where the splits are no stretches of time."""

    features: tuple[FeatureDrift, ...]
    splits: tuple[SplitActivity, ...]


def drift(counts: BucketFigures, spec: FeatureSpec, *, frame: Frame, min_users: int = 1) -> Drift:
    """Compare the splits. Splits of fewer than `min_users` active users are hidden."""
    features = [
        *_features("click", counts.targets, spec.click),
        *_features("retention", counts.references, spec.retention),
    ]
    features.sort(key=lambda f: (-f.index, f.block, f.feature))
    return Drift(tuple(features), _splits(counts, frame=frame, min_users=min_users))


def _features(block: str, values: Tally, selection: Selection) -> list[FeatureDrift]:
    found = []
    for name in selection.chosen:
        start = selection.names.index(name) * len(TRAINED) * VALUE_BINS
        cut = slice(*np.searchsorted(values.key_N, [start, start + len(TRAINED) * VALUE_BINS]))
        split, value_bin = np.divmod(values.key_N[cut] - start, VALUE_BINS)
        bins, where = np.unique(value_bin, return_inverse=True)
        count: NDArray[np.int64] = np.zeros((len(TRAINED), len(bins)), np.int64)
        count[split, where] = values.count_N[cut]
        if not count.sum(1).all():
            continue
        group = equal_groups(count[0])
        train, valid = (np.bincount(group, row) for row in count)
        index = stability_index(train, actual=valid)
        chance = index_by_chance(len(train), expected=int(train.sum()), actual=int(valid.sum()))
        found.append(FeatureDrift(block, name, round(index, 6), round(chance, 6)))
    return found


def _splits(counts: BucketFigures, *, frame: Frame, min_users: int) -> tuple[SplitActivity, ...]:
    if frame.cuts is None:
        return ()
    mix = counts.mix.dense(len(SPLITS), len(frame.types))
    user_days, users = (t.dense(len(SPLITS)) for t in (counts.split_days, counts.split_users))
    edges = np.array([frame.first_day * DAY_US, *frame.cuts, (frame.last_day + 1) * DAY_US]).clip(
        frame.first_day * DAY_US
    )
    return tuple(
        _split(
            s, mix, frame.types, float(edges[s + 1] - edges[s]) / DAY_US, int(user_days[s]), int(users[s]), min_users
        )
        for s in range(len(SPLITS))
    )


def _split(
    s: int, mix: Ints, types: tuple[str, ...], days: float, user_days: int, users: int, min_users: int
) -> SplitActivity:
    events = int(mix[s].sum())
    if not events or 0 < users < min_users:
        return SplitActivity(SPLITS[s], round(days, 3), None if events else 0, None, None, None, None)
    index = stability_index(mix[0], actual=mix[s])
    return SplitActivity(
        split=SPLITS[s],
        days=round(days, 3),
        events=events,
        mix={name: round(float(n / events), 6) for name, n in zip(types, mix[s], strict=True)},
        mix_index=None if s == 0 or math.isnan(index) else round(index, 6),
        users=users,
        active_per_day=round(user_days / days, 3) if days > 0 else None,
    )
