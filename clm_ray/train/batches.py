"""From windows to the tensors of one engine step, the same global batch for any number of ranks.

Shape letters: B windows, U distinct items, X distinct texts, K texts with gradient, M retrieval positives, G retrieval negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.features.spec import FeatureSpec
from clm_ray.features.tokens import TOKEN_VALUES
from clm_ray.model.inputs import padded, user_inputs
from clm_ray.model.items import ItemTable, UserTable
from clm_ray.model.recommender import (
    LOSSES,
    ActionTargets,
    Batch,
    ClickTargets,
    ReferenceTargets,
    RetrievalTargets,
    TextInputs,
)
from clm_ray.schema import DAY_US
from clm_ray.train.losses import Groups, loss_weights
from clm_ray.train.texts import TEXTS_PER_PASS, LowerStates
from clm_ray.train.windows import Windows

NEXT_ITEMS_PER_WINDOW = 16
"""Context events per window that become retrieval positives in a step."""


@dataclass(frozen=True)
class Popularity:
    """Sampler of retrieval negatives: rows with probability q, proportional to train events^alpha."""

    row: NDArray[np.int32]
    q: NDArray[np.float64]

    @staticmethod
    def build(events_I: NDArray[np.float64], *, alpha: float = 0.75) -> Popularity:
        """From train events per item row."""
        row = np.flatnonzero(events_I > 0)
        row = row[row > 0]
        weight = events_I[row] ** alpha
        return Popularity(row.astype(np.int32), weight / weight.sum())

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int32]:
        """`count` rows with replacement."""
        return rng.choice(self.row, size=count, p=self.q) if len(self.row) else np.zeros(count, np.int32)

    def log_expected(self, rows: NDArray[np.int32], draws: int) -> NDArray[np.float32]:
        """log of how often each row is expected in `draws` draws (rows never drawn: as the rarest)."""
        if not len(self.row):
            return np.zeros(len(rows), np.float32)
        at = np.minimum(np.searchsorted(self.row, rows), len(self.row) - 1)
        q = np.where(self.row[at] == rows, self.q[at], self.q.min())
        return np.log(draws * q).astype(np.float32)


@dataclass(frozen=True)
class Encoding:
    """Texts that get gradient in a step, sorted, and the rank that is to encode its share of them."""

    trained: NDArray[np.int64]
    rank: int
    world: int

    def groups(self, length_C: NDArray[np.int64], *, size: int) -> list[NDArray[np.int64]]:
        """Positions of this rank's texts among the trained ones, in groups of like length (padding is waste) of about `size`; as many groups on every rank."""
        own = np.argsort(length_C, kind="stable")[self.rank :: self.world]
        largest = -(-len(self.trained) // self.world)
        return np.array_split(own, -(-largest // size))


@dataclass
class BatchMaker:
    """Everything that turns windows into a Batch. `last_trained` remembers when each text last had gradient (step count)."""

    recipe: Recipe
    spec: FeatureSpec
    items: ItemTable
    users: UserTable
    columns: dict[str, tuple[dict[str, str], dict[str, float]]]
    lower: LowerStates | None
    popularity: Popularity
    train_end: int
    last_trained: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    groups: Groups = field(default_factory=Groups)

    @cached_property
    def _vocabulary(self) -> EventVocabulary:
        return EventVocabulary(self.recipe.event_types)

    def make(self, windows: Windows, *, rank: int, world: int, step: int, epoch: int, train: bool) -> Batch:
        """This rank's share of the global batch `windows`."""
        return next(self.parts(windows, rank=rank, world=world, step=step, epoch=epoch, train=train, parts=1))

    def parts(
        self, windows: Windows, *, rank: int, world: int, step: int, epoch: int, train: bool, parts: int
    ) -> Iterator[Batch]:
        """This rank's share of the global batch `windows`, in `parts` parts: each is what one of world · parts ranks would get,
        so the mean of all gradients is the gradient of the global batch.
        """
        train_config = self.recipe.train
        rng = np.random.default_rng([train_config.seed, epoch, step, 7])
        negative_rows = self.popularity.draw(train_config.retrieval_negatives, rng)
        none = [np.empty(0, np.int64)] * len(windows)
        next_items = self._next(windows, rng, items=True, train=True) if train else none
        acts = "next_action" in self.recipe.model.outputs
        next_events = self._next(windows, rng, items=False, train=train) if acts else none
        trained = self._budget(windows, negative_rows) if train else np.empty(0, np.int64)
        scale = self._scale(windows, next_items, next_events, world=world, parts=parts)
        for share in range(rank, world * parts, world):
            cut = slice(share, None, world * parts)
            mine, next_mine, events_mine = windows.share(share, world * parts), next_items[cut], next_events[cut]
            if not len(mine):
                mine = _nothing(self.spec)
                next_mine = events_mine = [np.empty(0, np.int64)]
            yield self._tensors(mine, next_mine, events_mine, negative_rows, Encoding(trained, rank, world), scale)

    def _budget(self, windows: Windows, negative_rows: NDArray[np.int32]) -> NDArray[np.int64]:
        """Texts of the global batch that get gradient: those that waited longest, a stable choice for every rank.

        In exact mode all of them, those of the retrieval negatives too; a budget is not spent on these.
        """
        if self.lower is None:
            return np.empty(0, np.int64)
        budget = self.recipe.model.encoder.items_per_step
        rows = np.concatenate([_items_of(windows), np.zeros(1, np.int32), negative_rows[: 0 if budget else None]])
        texts = np.unique(self.items.text_I[np.unique(rows)]).astype(np.int64)
        if budget and len(texts) > budget:
            order = np.lexsort((texts, self.last_trained[texts]))
            texts = np.sort(texts[order[:budget]])
        self.last_trained[texts] = self.last_trained.max() + 1
        return texts

    def _next(self, windows: Windows, rng: np.random.Generator, *, items: bool, train: bool) -> list[NDArray[np.int64]]:
        """Positions of context events of the train period (or of the validation period) that are to be foretold: a sample of each
        window's own events. Where it is the item that is asked for, of those with an item, and without those that say that it was not wanted.
        """
        sequences, split = self.recipe.sequences, self.recipe.split
        embargo = 0 if split.refit or not train else round(split.embargo_days * DAY_US)
        chosen = []
        for number, context, target in zip(windows.number, windows.context, windows.target, strict=True):
            time, end = context["time"], self.train_end - embargo
            if split.protocol == "per_user" and not split.refit:
                # Each user's train period ends for itself; at the moment of the last train target the later splits may begin.
                known = target["time"]
                end = int(
                    known.max(initial=np.iinfo(np.int64).min) if train else known.min(initial=np.iinfo(np.int64).max)
                )
            eligible_N = (time < end) == train
            if items:
                past = History(context["item"], context["event"], context["value"], time)
                eligible_N &= (context["item"] > 0) & (self._vocabulary.labels(past) != 0)
            # The tail belongs to the windows before; where it is cut, its first moment may be missing a part.
            eligible_N[: min(number * sequences.body, sequences.max_context)] = False
            if number * sequences.body > sequences.max_context:
                eligible_N &= time > time[0]
            eligible = np.flatnonzero(eligible_N)
            if len(eligible) > NEXT_ITEMS_PER_WINDOW:
                eligible = np.sort(rng.choice(eligible, NEXT_ITEMS_PER_WINDOW, replace=False))
            chosen.append(eligible)
        return chosen

    def _scale(
        self,
        windows: Windows,
        next_items: list[NDArray[np.int64]],
        next_events: list[NDArray[np.int64]],
        *,
        world: int,
        parts: int,
    ) -> torch.Tensor:
        """Loss weight · world / global weight, per loss."""
        targets, references = windows.target, windows.reference
        totals = {
            "click": sum(float(t["weight"].sum()) for t in targets),
            "retention": float(sum(len(r["bin"]) for r in references)),
            "retrieval": float(sum(len(n) for n in next_items)),
            "rating": sum(float(t["weight"][~np.isnan(t["rating"])].sum()) for t in targets),
            "value": float(sum((~np.isnan(r["value"])).sum() for r in references)),
            "next_action": float(sum(len(n) for n in next_events)),
            # A mean as it is, of each part of the step.
            "fairness": float(parts),
        }
        weights = loss_weights(self.recipe)
        return torch.tensor([weights[name] * world * parts / max(totals[name], 1.0) for name in LOSSES])

    def _tensors(
        self,
        windows: Windows,
        next_items: list[NDArray[np.int64]],
        next_events: list[NDArray[np.int64]],
        negative_rows: NDArray[np.int32],
        encoding: Encoding,
        scale: torch.Tensor,
    ) -> Batch:
        rows = np.unique(np.concatenate([_items_of(windows), negative_rows, np.zeros(1, np.int32)]))
        texts, text_of_row = np.unique(self.items.text_I[rows], return_inverse=True)

        def at(items: NDArray[Any]) -> NDArray[np.int64]:
            return np.searchsorted(rows, items)

        columns = [self.columns.get(user, ({}, {})) for user in windows.user]
        context = windows.context
        return Batch(
            texts=self._texts(texts.astype(np.int64), encoding),
            items=self.items.inputs(rows, text_of_row),
            users=user_inputs(
                items=[at(c["item"]) for c in context],
                events=[c["event"] for c in context],
                values=[c["dense"].reshape(len(c["item"]), len(TOKEN_VALUES)) for c in context],
                columns=columns,
                table=self.users,
            ),
            click=self._click(windows, at),
            references=self._references(windows),
            retrieval=self._retrieval(windows, next_items, negative_rows, at),
            actions=_actions(windows, next_events),
            scale=scale,
        )

    def _texts(self, texts: NDArray[np.int64], encoding: Encoding) -> TextInputs:
        trained = encoding.trained
        none = torch.empty(0, dtype=torch.int64)
        if self.lower is None or not len(trained):
            return TextInputs(torch.from_numpy(texts), none, none, 0, none, ())
        where = np.flatnonzero(np.isin(texts, trained))
        size = TEXTS_PER_PASS["cuda" if self.recipe.train.use_gpu else "cpu"]
        groups = encoding.groups(self.lower.lengths(trained), size=size)
        own = np.concatenate(groups)
        return TextInputs(
            cache_row_X=torch.from_numpy(texts),
            trained_K=torch.from_numpy(where),
            fresh_K=torch.from_numpy(np.searchsorted(trained, texts[where])),
            encoded=len(trained),
            own_E=torch.from_numpy(own),
            states=tuple(self.lower.padded(trained[group] if len(group) else trained[:1]) for group in groups),
        )

    def _click(self, windows: Windows, at: Any) -> ClickTargets:
        length_B, of = _flat(windows.target, "item")
        dense = self.spec.click.apply(of("dense").reshape(int(length_B.sum()), len(self.spec.click.names)))
        groups = [self.groups.of(user, t["item"]) for user, t in zip(windows.user, windows.target, strict=True)]

        def floats(values: NDArray[Any]) -> torch.Tensor:
            # One column at least: a head without any target would leave some parameters without a gradient, on this rank alone.
            return padded(values, length_B, torch.float32, least=1)

        def whole(values: NDArray[Any]) -> torch.Tensor:
            return padded(values, length_B, torch.int64, least=1)

        return ClickTargets(
            pos_BQ=whole(of("pos")),
            item_BQ=whole(at(of("item"))),
            dense_BQS=floats(dense),
            label_BQ=floats(of("label")),
            weight_BQ=floats(of("weight")),
            offset_BQ=floats(of("offset")),
            rating_BQ=floats(np.nan_to_num(of("rating"))),
            rated_BQ=floats(of("weight") * ~np.isnan(of("rating"))),
            group_BQ=whole(np.concatenate(groups)),
        )

    def _references(self, windows: Windows) -> ReferenceTargets:
        length_B, of = _flat(windows.reference, "bin")
        dense = self.spec.retention.apply(of("dense").reshape(int(length_B.sum()), len(self.spec.retention.names)))

        def floats(values: NDArray[Any]) -> torch.Tensor:
            return padded(values, length_B, torch.float32, least=1)

        def whole(values: NDArray[Any]) -> torch.Tensor:
            return padded(values, length_B, torch.int64, least=1)

        return ReferenceTargets(
            pos_BR=whole(of("pos")),
            dense_BRS=floats(dense),
            bin_BR=whole(of("bin")),
            seen_BR=whole(of("censored")),
            value_BR=floats(np.nan_to_num(of("value"))),
            known_BR=floats(~np.isnan(of("value"))),
        )

    def _retrieval(
        self, windows: Windows, next_items: list[NDArray[np.int64]], negative_rows: NDArray[np.int32], at: Any
    ) -> RetrievalTargets:
        draws = self.recipe.train.retrieval_negatives
        row_M, pos_M = _places(windows, next_items)
        items = np.concatenate([windows.context[b]["item"][n] for b, n in enumerate(next_items)])
        return RetrievalTargets(
            row_M=row_M,
            pos_M=pos_M,
            item_M=torch.from_numpy(at(items)),
            logq_M=torch.from_numpy(self.popularity.log_expected(items, draws)),
            negative_G=torch.from_numpy(at(negative_rows)),
            logq_G=torch.from_numpy(self.popularity.log_expected(negative_rows, draws)),
        )


def _flat(
    parts: list[dict[str, NDArray[Any]]], counted: str
) -> tuple[NDArray[np.int64], Callable[[str], NDArray[Any]]]:
    """(how many of the column `counted` each window has; any column of all windows, one after the other)."""
    length_B = np.array([len(part[counted]) for part in parts], np.int64)
    return length_B, lambda name: np.concatenate([part[name] for part in parts])


def _places(windows: Windows, events: list[NDArray[np.int64]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(window, position) of the state that has seen exactly what lies strictly before each event: ties in time are not yet seen."""
    row = np.concatenate([np.full(len(n), b) for b, n in enumerate(events)]).astype(np.int64)
    times = [context["time"] for context in windows.context]
    pos = np.concatenate([np.searchsorted(time, time[n]) for time, n in zip(times, events, strict=True)])
    return torch.from_numpy(row), torch.from_numpy(pos.astype(np.int64))


def _actions(windows: Windows, events: list[NDArray[np.int64]]) -> ActionTargets:
    row_M, pos_M = _places(windows, events)
    kind = np.concatenate([context["event"][n] for context, n in zip(windows.context, events, strict=True)])
    return ActionTargets(row_M=row_M, pos_M=pos_M, event_M=torch.from_numpy(kind.astype(np.int64)))


def _items_of(windows: Windows) -> NDArray[np.int32]:
    parts = [c["item"] for c in windows.context] + [t["item"] for t in windows.target]
    return np.concatenate(parts).astype(np.int32) if parts else np.empty(0, np.int32)


def _nothing(spec: FeatureSpec) -> Windows:
    """One window without events and targets, for a rank that has no share of a short last step."""
    none = np.empty(0, np.int32)
    context: dict[str, NDArray[Any]] = {
        "item": none,
        "event": none,
        "time": np.empty(0, np.int64),
        "dense": np.empty((0, len(TOKEN_VALUES)), np.float32),
    }
    target = dict.fromkeys(("item", "label", "weight", "offset", "pos"), none) | {"rating": np.empty(0, np.float32)}
    reference = dict.fromkeys(("pos", "bin", "censored"), none) | {"value": np.empty(0, np.float32)}
    return Windows(
        [""],
        [0],
        [context],
        [{**target, "dense": np.empty((0, len(spec.click.names)), np.float32)}],
        [{**reference, "dense": np.empty((0, len(spec.retention.names)), np.float32)}],
    )
