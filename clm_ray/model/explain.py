"""Why a click score is what it is: what each past event, and each word of the item's text, has to do with it.

Events: exact occlusion. An event is taken out of the history and the user is scored again as if it had never happened: user tower, dense
features, residuals and time gaps are all computed anew, and where the history is longer than the tower's context an older event moves in.
Held fixed is what other users share: item vectors, item statistics, the moment. The contribution is score with - score without: it is
exact for this one event, and contributions do not add up to the score, since events act together.

Words: integrated gradients (Sundararajan et al., 2017) from the token embeddings to the logit. The baseline is the same text with every
word masked; special tokens stay, so they contribute nothing. Contributions add up to logit - logit of the baseline, but for
the error of the integration, which is told. Held fixed: the user with all past events, also where they are of the
same item, the dense features, the item's identifier and categories.

Shape letters: E explained events, X texts on the path of integration, S tokens, H hidden size of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clm_ray.errors import ConfigError, RequestError
from clm_ray.features.history import History
from clm_ray.model.files import ModelFolder
from clm_ray.model.inference import Scorer, UserRequest, UserState
from clm_ray.model.items import ItemTable
from clm_ray.model.text import TextTower, tokenize

_HISTORIES_PER_PASS = 64
_TEXTS_PER_PASS = 64


@dataclass(frozen=True)
class EventContribution:
    """What one event of the history does to a score. `place`: its position in the request's history. `logit` and `probability`: the
    score with it less the score without it.
    """

    place: int
    item_id: str
    event_type: str
    time: int
    logit: float
    probability: float


@dataclass(frozen=True)
class EventExplanation:
    """The score of an item, and the contribution of every event in the user tower's context, oldest first."""

    item_id: str
    logit: float
    probability: float
    events: tuple[EventContribution, ...]


@dataclass(frozen=True)
class TokenContribution:
    """What one token of the item's text adds to the logit. `token`: as the tokenizer writes it; `special`: it added it."""

    token: str
    special: bool
    logit: float


@dataclass(frozen=True)
class TextExplanation:
    """The logit of an item, that of the same item with masked words, and the contribution of each token.

    `error`: sum of the contributions - (logit - baseline); more steps make it smaller.
    """

    item_id: str
    text: str
    logit: float
    baseline: float
    tokens: tuple[TokenContribution, ...]
    error: float


@dataclass(frozen=True)
class TextModel:
    """What makes item vectors of texts: opened for explanations only, since serving looks vectors up."""

    tower: TextTower
    tokenizer: Any
    items: ItemTable
    max_tokens: int

    @staticmethod
    def open(folder: Path) -> TextModel:
        """Open a model folder or a release. Raises ReleaseError where a file is missing, or where it was trained without text."""
        files = ModelFolder.open(folder)
        tower, tokenizer = files.text_tower()
        items = ItemTable.build(files.catalogue(), np.load(folder / "item_slot.npy"), files.further_vectors())
        return TextModel(whole(tower), tokenizer, items, files.recipe().model.encoder.max_tokens)


def whole(tower: TextTower) -> TextTower:
    """The same tower with no layer below its cut, so that its lower states are the token embeddings. Changes `tower`."""
    tower.upper = nn.ModuleList([*tower.lower, *tower.upper])
    tower.lower = nn.ModuleList()
    return tower.eval()


def explain_events(scorer: Scorer, request: UserRequest, *, item: int) -> EventExplanation:
    """Contribution of each of the last `max_context` context events before `request.time` to the score of item row `item`.

    Raises RequestError for an item that is not in the catalogue.
    """
    return explain_slate(scorer, request, items=[item])[0]


def explain_slate(scorer: Scorer, request: UserRequest, *, items: Sequence[int]) -> list[EventExplanation]:
    """`explain_events` of several items of one user, which share the passes of the user tower: one for every 64 events.

    Raises RequestError for an item that is not in the catalogue.
    """
    for item in items:
        _check_item(scorer, item)
    places = _context_places(scorer, request)
    histories = [request.history, *(_without(request.history, place) for place in places)]
    requests = [UserRequest(request.user_id, history, request.time) for history in histories]
    rows_K = np.array(items, np.int32)
    logit: list[NDArray[np.float32]] = []
    for first in range(0, len(requests), _HISTORIES_PER_PASS):
        states = scorer.states(requests[first : first + _HISTORIES_PER_PASS])
        logit += scorer.click_logits(states, [rows_K] * len(states))
    logit_EK = np.stack(logit).astype(np.float64)
    probability_EK = 1.0 / (1.0 + np.exp(-logit_EK))
    return [
        _explanation(scorer, request.history, places, item, logit_EK[:, k], probability_EK[:, k])
        for k, item in enumerate(items)
    ]


def _explanation(
    scorer: Scorer,
    past: History,
    places: Sequence[int],
    item: int,
    logit_E: NDArray[np.float64],
    probability_E: NDArray[np.float64],
) -> EventExplanation:
    """Scores of one item: with everything first, then without each event in turn."""
    names, ids = scorer.vocabulary.names, scorer.items.ids
    return EventExplanation(
        ids[item],
        float(logit_E[0]),
        float(probability_E[0]),
        tuple(
            EventContribution(
                place,
                ids[past.item_N[place]],
                names[past.event_N[place]],
                int(past.time_N[place]),
                float(logit_E[0] - logit_E[e]),
                float(probability_E[0] - probability_E[e]),
            )
            for e, place in enumerate(places, start=1)
        ),
    )


def explain_text(
    scorer: Scorer, text: TextModel, request: UserRequest, *, item: int, steps: int = 64
) -> TextExplanation:
    """Contribution of each token of the text of item row `item` to its logit. `steps`: points of the integration.

    Raises RequestError for an item that is not in the catalogue, ConfigError where captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise ConfigError(
            "the package captum is not installed", field="explain", value="captum", fix="pip install 'clm-ray[explain]'"
        ) from error
    _check_item(scorer, item)
    (state,) = scorer.states([request])
    words = text.items.texts[text.items.text_I[item]]
    ids, mask = tokenize([words], text.tokenizer, max_tokens=text.max_tokens).padded(np.zeros(1, np.int64))
    special = text.tokenizer.get_special_tokens_mask(ids[0].tolist(), already_has_special_tokens=True)
    masked = ids.masked_fill(~torch.tensor(special, dtype=torch.bool)[None], _blank(text.tokenizer))
    with torch.no_grad():
        here, there = text.tower.lower_states(ids, mask), text.tower.lower_states(masked, mask)
    score = _Score(scorer, text, state, item, mask)
    with torch.no_grad():
        logit, baseline = (float(score(states)) for states in (here, there))
    attributed = IntegratedGradients(score).attribute(
        here, there, n_steps=steps, method="gausslegendre", internal_batch_size=_TEXTS_PER_PASS
    )
    token_S = attributed.sum(-1)[0].double()
    names = text.tokenizer.convert_ids_to_tokens(ids[0].tolist())
    tokens = zip(names, special, token_S.tolist(), strict=True)
    return TextExplanation(
        scorer.items.ids[item],
        words,
        logit,
        baseline,
        tuple(TokenContribution(str(name), bool(mark), float(value)) for name, mark, value in tokens),
        float(token_S.sum()) - (logit - baseline),
    )


@dataclass(frozen=True)
class _Score:
    """Token embeddings [X, S, H] of one item's text → its calibrated logit [X]."""

    scorer: Scorer
    text: TextModel
    state: UserState
    item: int
    mask_1S: Tensor

    def __call__(self, states_XSH: Tensor) -> Tensor:
        count = len(states_XSH)
        vectors = self.text.tower.pooled(states_XSH, self.mask_1S.expand(count, -1))
        rows = np.full(count, self.item, np.int32)
        target = self.scorer.network.item_vectors(vectors, self.text.items.inputs(rows, np.arange(count)))
        dense = self.scorer.click_features(self.state, rows[:1])
        return self.scorer.logits_of(self.state, rows, target, dense.expand(count, -1))


def _check_item(scorer: Scorer, item: int) -> None:
    if not 0 < item < len(scorer.items):
        raise RequestError(
            "no such row in the catalogue", field="item", value=item, fix=f"give 1 to {len(scorer.items) - 1}"
        )


def _context_places(scorer: Scorer, request: UserRequest) -> list[int]:
    """Positions in the request's history of the events that the user tower sees."""
    past = request.history.before(request.time)
    context: NDArray[np.intp] = np.flatnonzero(scorer.vocabulary.is_context(past))
    return [int(place) for place in context[-scorer.recipe.sequences.max_context :]]


def _without(history: History, place: int) -> History:
    keep = np.ones(len(history), bool)
    keep[place] = False
    return history.select(keep)


def _blank(tokenizer: Any) -> int:
    """The token that stands for a masked word: the encoder's own mask where it has one, else its padding, end or unknown token."""
    ids = (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    return int(next((token for token in ids if token is not None), 0))
