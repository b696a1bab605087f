"""Which targets the occasions of a user give, and in which split each lies.

Shape letters: X rows that may become targets (every candidate where negatives are explicit, else one per occasion), T targets, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.data.buckets import hash_of
from clm_ray.data.evaluation_sample import HeldOutOccasion, impression_row
from clm_ray.data.occasions import NO_TARGETS, TARGET_FIELDS, Labelled, Occasion, OccasionSource, Targets
from clm_ray.data.splits import SplitPlan
from clm_ray.data.user_events import UserEvents
from clm_ray.schema import TEST, TRAIN, VALID, slate_slot

_LEFT_OUT = -1
"""The split of what is no target."""


@dataclass(frozen=True)
class FoundTargets:
    """Of some of a user's events: train and valid targets with their split; the other occasions with the split of each of their rows. `asked`,
    `left_out`: see BucketResult."""

    targets: Targets
    split_T: NDArray[np.int32]
    shown: list[tuple[Occasion, NDArray[np.int32]]]
    asked: int
    left_out: int


@dataclass(frozen=True)
class HeldOut:
    """Test occasions; rows of schema.IMPRESSIONS where the log has them, with the number of their items and of the positive ones."""

    occasions: list[HeldOutOccasion]
    impressions: list[dict[str, Any]]
    rows: float
    positives: float


@dataclass(frozen=True)
class TargetSource:
    """Finds the targets of users. `ids`: of the items."""

    recipe: Recipe
    occasions: OccasionSource
    plan: SplitPlan
    ids: Sequence[str]

    @property
    def splits_hang_together(self) -> bool:
        """Whether the split of a row depends on the user's other rows."""
        return self.plan.config.protocol == "per_user" and not self.plan.config.refit

    def labelled(self, user: UserEvents) -> Labelled:
        """The user's events with their labels.

        Where answers to a slate count however late, those count that came before the end of the split in which the slate lies: a label never
        looks into a later split. An answer that comes after it is no target of its own either.
        """
        events = self.occasions.labelled(user)
        if self.occasions.window_us or not events.taken:
            return events
        # Slates alone are looked at, unless their splits hang on the user's other rows.
        found = self.occasions.occasions(events) if self.splits_hang_together else [*self.occasions.slates(events)]
        sizes, time_X, _, items = self._rows(found)
        split_X = self.plan.of_targets(user.user_id, time_X, items)
        end_X = self.plan.ends(split_X, time_X)[split_X]
        slates = {slate_slot(decision): decision for decision in events.taken}
        taken, at = dict(events.taken), 0
        for occasion, size in zip(found, sizes, strict=True):
            mine, at = end_X[at : at + size], at + size
            if occasion.kind == "decision" and occasion.slot in slates and occasion.shown_C is not None:
                decision = slates[occasion.slot]
                end_C = np.broadcast_to(mine, occasion.shown_C.shape)
                taken[decision] = taken[decision].before(end_C, occasion.shown_C)
        return replace(events, taken=taken)

    def splits(self, parts: Sequence[Labelled]) -> list[NDArray[np.int32]]:
        """The splits of all rows of a user whose events these are, part by part. Occasions are made one part at a time."""
        rows = [self._rows(self.occasions.occasions(part)) for part in parts]
        time_X = np.concatenate([time for _, time, _, _ in rows])
        final_X = np.concatenate([final for _, _, final, _ in rows])
        split_X = self._split(parts[0].user_id, time_X, final_X, [item for *_, items in rows for item in items])
        return np.split(split_X, np.cumsum([len(time) for _, time, _, _ in rows])[:-1])

    def found(self, events: Labelled, split_X: NDArray[np.int32] | None) -> FoundTargets:
        """`split_X`: the splits of their rows, where they hang together with others."""
        found = self.occasions.occasions(events)
        sizes, time_X, final_X, items = self._rows(found)
        if split_X is None:
            split_X = self._split(events.user_id, time_X, final_X, items)
        sampled: list[Targets] = []
        splits: list[NDArray[np.int32]] = []
        shown: list[tuple[Occasion, NDArray[np.int32]]] = []
        at = 0
        for occasion, size in zip(found, sizes, strict=True):
            mine, at = split_X[at : at + size], at + size
            if ((mine == TRAIN) | (mine == VALID)).any():
                part = self.occasions.sampled(events.user_id, occasion)
                if self._by_row:
                    keep = (mine == TRAIN) | (mine == VALID)
                    sampled.append(Targets(*(getattr(part, n)[keep] for n in TARGET_FIELDS)))
                    splits.append(mine[keep])
                else:
                    sampled.append(part)
                    splits.append(np.full(len(part), mine[0], np.int32))
            if (mine > TRAIN).any():
                shown.append((occasion, mine))
        asked = 0 if self._by_row else sum(len(occasion.taken) for occasion in found)
        left_out = int((split_X == _LEFT_OUT).sum())
        if not sampled:
            return FoundTargets(NO_TARGETS, np.empty(0, np.int32), shown, asked, left_out)
        joined = Targets(*(np.concatenate([getattr(p, n) for p in sampled]) for n in TARGET_FIELDS))
        return FoundTargets(joined, np.concatenate(splits), shown, asked, left_out)

    def held_out(self, user_id: str, shown: Sequence[tuple[Occasion, NDArray[np.int32]]]) -> HeldOut:
        """The test occasions among `shown`."""
        found, impressions = [], []
        rows = positives = 0.0
        for occasion, split_X in shown:
            test = split_X == TEST
            if not test.any():
                continue
            rank = hash_of(f"{self.recipe.sequences.seed}/{user_id}/{occasion.time}/{occasion.kind}")
            # The candidates of a slot are found again once the sample is drawn: they need not travel.
            light = self._of_test(occasion, test)
            light = light if light.slot is None else replace(light, shown_C=None)
            found.append(HeldOutOccasion(rank, user_id, light))
            if occasion.labels_C is not None and occasion.weights_C is not None and occasion.shown_C is not None:
                row = impression_row(user_id, occasion, occasion.shown_C[test], occasion.labels_C[test], kind="shown")
                impressions.append(row | {"weight": occasion.weights_C[test]})
                rows += float(test.sum())
                positives += float(occasion.labels_C[test].sum())
        return HeldOut(found, impressions, rows, positives)

    @staticmethod
    def _of_test(occasion: Occasion, test_X: NDArray[np.bool_]) -> Occasion:
        """Where a cut falls inside an occasion, what was chosen in it is what its test rows chose: the others were trained on."""
        if occasion.labels_C is None or occasion.shown_C is None or test_X.all():
            return occasion
        return replace(occasion, chosen=occasion.shown_C[test_X & (occasion.labels_C == 1)])

    @property
    def _by_row(self) -> bool:
        return self.occasions.config.negatives == "explicit"

    def _rows(self, found: Sequence[Occasion]) -> tuple[list[int], NDArray[np.int64], NDArray[np.int64], list[str]]:
        """(rows of each occasion; time, moment from which the label is known, and item of each row)."""
        sizes = [_size(o) if self._by_row else 1 for o in found]
        times = np.repeat(np.array([o.time for o in found], np.int64), sizes)
        final = np.concatenate([times[:0], *(_final(o, size) for o, size in zip(found, sizes, strict=True))])
        if not self._by_row:
            return sizes, times, final, [""] * len(found)
        items = [self.ids[i] for o in found for i in (o.shown_C if o.shown_C is not None else o.taken)]
        return sizes, times, final, items

    def _split(
        self, user_id: str, time_X: NDArray[np.int64], final_X: NDArray[np.int64], items: Sequence[str]
    ) -> NDArray[np.int32]:
        split_X = self.plan.of_targets(user_id, time_X, items)
        return np.where(self.plan.usable(split_X, time_X, final_X), split_X, _LEFT_OUT).astype(np.int32)


def _final(occasion: Occasion, size: int) -> NDArray[np.int64]:
    """When the labels are known: of each candidate, or (`size` 1) of the occasion as a whole."""
    if occasion.final_C is None:
        return np.full(size, occasion.time)
    return occasion.final_C if size == len(occasion.final_C) else occasion.final_C.max(keepdims=True)


def _size(occasion: Occasion) -> int:
    return len(occasion.shown_C) if occasion.shown_C is not None else len(occasion.taken)
