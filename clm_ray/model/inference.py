"""The one scoring path: evaluation and serving both go through `Scorer`.

A user at a moment becomes a `UserState` (profile vector and context tokens); click probabilities, survival and retrieval are computed
from states. Everything is as of `time`: only events strictly before it are used, those within reach (`History.within_reach`) for
features and the last `max_context` context events for the user tower.

Shape letters: B users, T tokens (start token first), C candidates of one user, D width, J hazard bins, I item rows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clm_ray.config.recipe import Recipe
from clm_ray.features.asked import Joined
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.features.spec import FeatureSource, FeatureSpec
from clm_ray.features.tokens import USER_MEAN_EVENTS, token_values
from clm_ray.model.calibration import IDENTITY, Calibration
from clm_ray.model.factors import Factors
from clm_ray.model.files import ModelFolder, columns_of
from clm_ray.model.heads import Value
from clm_ray.model.inputs import pad, user_inputs
from clm_ray.model.interactions import Fields
from clm_ray.model.item_index import ItemIndex
from clm_ray.model.items import UserTable
from clm_ray.model.network import Network, survival_from
from clm_ray.model.retention_calibration import UNCALIBRATED, RetentionCalibration
from clm_ray.model.retrieval import first_distinct, nearest, own_items, without
from clm_ray.model.stacking import ALONE, Stacking

_PAIRS_PER_PASS = 1 << 14
"""Candidates scored in one pass of the click head: bounds memory."""


@dataclass(frozen=True)
class UserRequest:
    """One user at one moment (UTC microseconds); events of `history` at or after `time` are ignored."""

    user_id: str
    history: History
    time: int


@dataclass(frozen=True)
class UserState:
    """What the user tower made of a request. Plain arrays: it travels between processes."""

    user_id: str
    time: int
    history: History
    profile_D: NDArray[np.float32]
    token_TD: NDArray[np.float32]
    taste_F: NDArray[np.float32] | None = None
    """Of the matrix factorisation (model/factors.py): None where it has nothing to say."""


class Scorer:
    """A model opened for scoring on the CPU."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        network: Network,
        item_ID: NDArray[np.float32],
        source: FeatureSource,
        spec: FeatureSpec,
        users: UserTable,
        columns: dict[str, tuple[dict[str, str], dict[str, float]]],
        calibration: Calibration = IDENTITY,
        retention: RetentionCalibration = UNCALIBRATED,
        factors: Factors | None = None,
        stacking: Stacking = ALONE,
        index: ItemIndex | None = None,
    ) -> None:
        """`item_ID` may be mapped from a file: it is shared then, not copied. `index`: of these vectors; None: they are searched one by one."""
        self.recipe = recipe
        self.network = network.eval()
        self.source = source
        self.spec = spec
        self._item_ID = torch.from_numpy(item_ID)
        self.index = index
        self._newer_N: NDArray[np.int64] = np.empty(0, np.int64)  # rows that the index does not know as they are now
        self.calibration = calibration
        self.retention = retention
        self.factors = factors
        self.stacking = stacking
        self._users = users
        self._columns = columns

    @staticmethod
    def open(folder: Path, *, threads: int = 1) -> Scorer:
        """Open a model folder or a release. Raises ReleaseError where a file is missing. Sets torch's thread count."""
        torch.set_num_threads(threads)
        files = ModelFolder.open(folder)
        recipe, description = files.recipe(), files.description()
        vocabulary = EventVocabulary(recipe.event_types)
        table = files.users()
        columns = dict(
            zip(
                table.column("user_id").to_pylist(),
                zip(columns_of(table, "categorical"), columns_of(table, "numeric"), strict=True),
                strict=True,
            )
        )
        return Scorer(
            recipe=recipe,
            network=files.network(),
            item_ID=files.item_vectors(),
            source=FeatureSource(recipe, vocabulary, files.catalogue(), files.statistics(), files.neighbours()),
            spec=files.features(),
            users=description.users,
            calibration=description.calibration,
            retention=description.retention,
            factors=files.factors(),
            stacking=description.stacking,
            columns=columns,
            index=files.index(),
        )

    def amended(self, catalogue: Catalogue, row_N: NDArray[np.int64], vector_ND: NDArray[np.float32]) -> Scorer:
        """The same model with another catalogue (of `Catalogue.amended`) and, in the given rows, other item vectors."""
        missing = len(catalogue) - len(self._item_ID)
        item_ID = torch.cat([self._item_ID, self._item_ID[:1].expand(missing, -1)])  # at first as the unknown item
        if len(row_N):
            item_ID[torch.from_numpy(row_N)] = torch.from_numpy(vector_ND)
        other = copy.copy(self)
        other._item_ID = item_ID
        other._newer_N = np.concatenate([row_N, np.arange(len(self._item_ID), len(catalogue))])
        other.source = replace(self.source, catalogue=catalogue)
        return other

    @property
    def vocabulary(self) -> EventVocabulary:
        """Event types by code."""
        return self.source.vocabulary

    @property
    def items(self) -> Catalogue:
        """Item rows, ids and categories."""
        return self.source.catalogue

    @torch.inference_mode()
    def states(self, requests: Sequence[UserRequest]) -> list[UserState]:
        """Run the user tower for each request."""
        if not requests:
            return []
        reach = self.recipe.sequences.max_context
        past = [r.history.before(r.time) for r in requests]
        known = [h.select(self.vocabulary.counts(h)) for h in past]
        most = self.recipe.features.max_history
        histories = [h.within_reach(r.time, most) for h, r in zip(known, requests, strict=True)]
        contexts, values = self._contexts(past, reach)
        users = user_inputs(
            items=[c.item_N.astype(np.int64) for c in contexts],
            events=[c.event_N.astype(np.int64) for c in contexts],
            values=values,
            columns=[self._columns.get(r.user_id, ({}, {})) for r in requests],
            table=self._users,
        )
        token_BTD = self.network.tokens(self._item_ID, users)
        state_BTD = self.network.user_states(token_BTD).numpy()
        tokens = token_BTD.numpy()
        return [
            UserState(
                r.user_id,
                r.time,
                history,
                state_BTD[b, len(c)].copy(),
                tokens[b, : len(c) + 1].copy(),
                taste_of(self.factors, history, vocabulary=self.vocabulary),
            )
            for b, (r, history, c) in enumerate(zip(requests, histories, contexts, strict=True))
        ]

    def holds_later(self, history: History) -> bool:
        """Whether `states` of the whole history gives the same at every later moment: all of it is within reach, whatever the day."""
        return len(history) <= self.recipe.features.max_history

    def later(self, state: UserState, time: int) -> UserState:
        """The state of the same user at another moment after the same events; needs `holds_later` of the history."""
        return replace(state, time=time)

    def _contexts(self, past: Sequence[History], reach: int) -> tuple[list[History], list[NDArray[np.float32]]]:
        """What the user tower sees of each history (of all of it, as in training: `within_reach` is for features), and the values of these
        tokens."""
        longer = [self._looked_at(h, reach) for h in past]
        values = token_values(
            Joined.of(longer),
            statistics=self.source.statistics,
            vocabulary=self.vocabulary,
            prior=self.recipe.features.prior_strength,
        )
        ends = np.cumsum([len(h) for h in longer]).tolist()
        contexts = [h.tail(reach) for h in longer]
        return contexts, [values[end - len(c) : end] for end, c in zip(ends, contexts, strict=True)]

    def _looked_at(self, past: History, reach: int) -> History:
        """The last `reach` context events, and before them what the values of the first one (gap, surprise) look back on: all of its moment,
        the events of the user's mean, and one more. Looked for from the end: a history may be long."""
        look = 2 * (reach + USER_MEAN_EVENTS + 1)
        while True:
            part = past.tail(look)
            context = part.select(self.vocabulary.is_context(part))
            first_N = context.time_N[max(0, len(context) - reach) :][:1]
            begin = int(np.searchsorted(context.time_N, first_N).sum()) - USER_MEAN_EVENTS - 1
            if begin >= 0 or len(part) == len(past):
                return context.slice(max(0, begin), len(context))
            look *= 4

    @torch.inference_mode()
    def click(self, states: Sequence[UserState], items: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
        """Probability of a positive answer to each candidate row, per user."""
        return [torch.sigmoid(torch.from_numpy(logit)).numpy() for logit in self.click_logits(states, items)]

    @torch.inference_mode()
    def click_logits(
        self, states: Sequence[UserState], items: Sequence[NDArray[np.int32]]
    ) -> list[NDArray[np.float32]]:
        """Logit of `click`'s probabilities, per user."""
        found = [np.empty(len(rows), np.float32) for rows in items]
        for pieces in _passes([len(rows) for rows in items]):
            some, rows = [states[place] for place, _ in pieces], [items[place][cut] for place, cut in pieces]
            dense_BQS = pad(self._click_features(some, rows), torch.float32, width=len(self.spec.click.chosen))
            target_BQD = self._item_ID[pad([r.astype(np.int64) for r in rows], torch.int64)]
            logit_BQ = self.network.click_logits_of(self._fields(some, target_BQD, dense_BQS))
            calibrated_BQ = self.calibration.apply(logit_BQ)
            for b, ((place, cut), row_C) in enumerate(zip(pieces, rows, strict=True)):
                found[place][cut] = self._stacked(some[b], row_C, calibrated_BQ[b, : len(row_C)]).numpy()
        return found

    def _stacked(self, state: UserState, row_C: NDArray[np.int32], logit_C: Tensor) -> Tensor:
        """Calibrated logits with what the ratings say of this user and these items."""
        if self.factors is None:
            return logit_C
        return self.stacking.apply(logit_C, self.factors.expected(state.taste_F, row_C))

    def _click_features(
        self, states: Sequence[UserState], items: Sequence[NDArray[np.int32]]
    ) -> list[NDArray[np.float32]]:
        """[C, S] per user."""
        time_B = np.array([state.time for state in states], np.int64)
        dense = self.spec.click.apply(self.source.click_of([state.history for state in states], time_B, items))
        return np.split(dense, np.cumsum([len(rows) for rows in items])[:-1])

    def click_features(self, state: UserState, rows: NDArray[np.int32]) -> Tensor:
        """[C, S]: the dense features that the click head gets with each candidate."""
        return torch.from_numpy(self._click_features([state], [rows])[0])

    def logits_of(self, state: UserState, row_C: NDArray[np.int32], target_CD: Tensor, dense_CS: Tensor) -> Tensor:
        """Click logits [C] of items with other vectors than those of the catalogue. Differentiable in vectors and features."""
        logit = self.network.click_logits_of(self._fields([state], target_CD[None], dense_CS[None]))[0]
        return self._stacked(state, row_C, self.calibration.apply(logit))

    @torch.inference_mode()
    def ratings(
        self, states: Sequence[UserState], items: Sequence[NDArray[np.int32]]
    ) -> list[NDArray[np.float32]] | None:
        """Expected rating of each candidate row, per user; None where the model has no output `rating`."""
        if self.network.rating is None:
            return None
        found = []
        for state, rows in zip(states, items, strict=True):
            target = self._item_ID[torch.from_numpy(rows.astype(np.int64))]
            fields = self._fields([state], target[None], self.click_features(state, rows)[None])
            found.append(self.network.ratings(fields)[0].numpy())
        return found

    @torch.inference_mode()
    def values(self, states: Sequence[UserState]) -> NDArray[np.float32] | None:
        """[B]: expected spend within the longest reported horizon; None where the model has no output `value`."""
        if self.network.spend is None:
            return None
        if not states:
            return np.empty(0, np.float32)
        return Value.expected(*self.network.values(*self._retention_inputs(states)))[:, 0].numpy()

    @torch.inference_mode()
    def next_actions(self, states: Sequence[UserState]) -> NDArray[np.float32] | None:
        """[B, E]: chance of each event type (in the vocabulary's order) to be the user's next; None without the output `next_action`."""
        if self.network.action is None:
            return None
        if not states:
            return np.empty((0, len(self.vocabulary.names)), np.float32)
        profile = torch.from_numpy(np.stack([s.profile_D for s in states]))
        return torch.softmax(self.network.action_logits(profile), dim=-1).numpy()

    @torch.inference_mode()
    def survival(self, states: Sequence[UserState], *, stage_B: NDArray[np.int8]) -> NDArray[np.float32] | None:
        """[B, J]: chance to be active again within recipe.retention.bin_ends[j] days, calibrated by the users' stages at these moments
        (positions in STAGES); None where the head is off."""
        if not self.recipe.retention.enabled:
            return None
        if not states:
            return np.empty((0, len(self.recipe.retention.bin_ends)), np.float32)
        logit_BJ = self.network.hazard_logits(*self._retention_inputs(states))[:, 0]
        return survival_from(self.retention.apply(logit_BJ, stage_B)).numpy()

    def _fields(self, states: Sequence[UserState], target_BQD: Tensor, dense_BQS: Tensor) -> Fields:
        token_BTD = pad([state.token_TD for state in states], torch.float32, width=target_BQD.shape[-1])
        # All targets of a user stand behind the last token.
        pos_B1 = torch.tensor([[len(state.token_TD) - 1] for state in states])
        profile_BD = torch.from_numpy(np.stack([state.profile_D for state in states]))
        return self.network.fields(token_BTD, profile_BD[:, None].expand_as(target_BQD), pos_B1, target_BQD, dense_BQS)

    def _retention_inputs(self, states: Sequence[UserState]) -> tuple[Tensor, Tensor]:
        """(profiles [B, 1, D], features [B, 1, S])."""
        time_B = np.array([state.time for state in states], np.int64)
        dense = self.spec.retention.apply(self.source.retention_of([state.history for state in states], time_B))
        profile = torch.from_numpy(np.stack([s.profile_D for s in states]))
        return profile[:, None], torch.from_numpy(dense)[:, None]

    @torch.inference_mode()
    def retrieve(
        self,
        states: Sequence[UserState],
        *,
        count: int,
        allowed: Sequence[NDArray[np.bool_] | None] | None = None,
    ) -> list[NDArray[np.int32]]:
        """Up to `count` rows of the whole catalogue, per user; of those in `allowed` [I] where it is given.

        With `serve.repeat` the items the user chose before (most often first, at most half of `count`) and then those with the
        highest retrieval score; without it the latter alone, less the items the user has an event with.
        """
        if not states:
            return []
        query_BD = self.network.query(torch.from_numpy(np.stack([s.profile_D for s in states])))
        own = [own_items(state.history, vocabulary=self.vocabulary) for state in states]
        masks = list(allowed or [None] * len(states))
        if len(gone := self.items.gone_G):
            masks = [without(mask, gone, items=len(self.items)) for mask in masks]
        repeat = self.recipe.serve.repeat
        if not repeat:
            masks = [without(mask, mine, items=len(self.items)) for mask, mine in zip(masks, own, strict=True)]
        best = nearest(query_BD, self._item_ID, masks, count=count, index=self.index, newer_N=self._newer_N)
        if not repeat:
            return best
        mine_B = [o if mask is None else o[mask[o]] for o, mask in zip(own, masks, strict=True)]
        return [first_distinct(o[: count // 2], r, count) for o, r in zip(mine_B, best, strict=True)]

    def item_vectors(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Item vectors [C, D] of the given rows."""
        return self._item_ID[torch.from_numpy(rows.astype(np.int64))].numpy()


def _passes(sizes: Sequence[int]) -> Iterator[list[tuple[int, slice]]]:
    """(place, part of its list) of what is scored in one pass: parts of about the same length together, so that little is padded."""
    parts = [
        (min(_PAIRS_PER_PASS, size - first), place, first)
        for place, size in enumerate(sizes)
        for first in range(0, size, _PAIRS_PER_PASS)
    ]
    some: list[tuple[int, slice]] = []
    for size, place, first in sorted(parts):
        if some and (len(some) + 1) * size > _PAIRS_PER_PASS:
            yield some
            some = []
        some.append((place, slice(first, first + size)))
    if some:
        yield some


def taste_of(factors: Factors | None, past: History, *, vocabulary: EventVocabulary) -> NDArray[np.float32] | None:
    """What the ratings of a history say of the user's taste; the history ends before the moment that is asked about."""
    return factors.taste(past.item_N, vocabulary.ratings(past)) if factors is not None else None
