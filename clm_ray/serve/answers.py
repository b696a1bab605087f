"""From what the parts found out to what a caller reads, and to what the log keeps.

Shape letters: C candidates of one user, K items of one slate, I catalogue rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clm_ray.messages import Degraded, Profile, Recommendation, RecommendedItem, RetentionAction
from clm_ray.serve.asks import Ask
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.hops import Ranked
from clm_ray.store.records import ServedSlate


@dataclass
class Draft:
    """An answer on its way through the parts. `ranked` is unscored (NaN) where no model ranked it."""

    ask: Ask
    ranked: Ranked
    degraded: list[Degraded] = field(default_factory=list)
    profile: Profile | None = None
    retention: RetentionAction | None = None
    retention_reason: str | None = None
    decision_id: str | None = None


def popular_slate(ask: Ask, *, served: ServedCatalogue) -> Ranked:
    """The most popular of the candidates, unscored: what is shown when nobody ranks."""
    if ask.row_C is None:
        row_K = served.popular_I[: ask.k]
    else:
        row_K = ask.row_C[np.argsort(served.popular_place_I[ask.row_C], kind="stable")][: ask.k]
    return Ranked(row_K, np.full(len(row_K), np.nan, np.float32))


def candidates_of(draft: Draft, *, served: ServedCatalogue) -> NDArray[np.int32] | None:
    """The rows to rank: those given; for a user without a history what is popular; else None, to be retrieved."""
    if draft.ask.row_C is None and "no_history" in draft.degraded:
        return served.popular_I[: max(served.recipe.serve.retrieve, draft.ask.k)]
    return draft.ask.row_C


def slate_of(draft: Draft, *, decision_id: str, served: ServedCatalogue) -> ServedSlate:
    """What the log keeps of an answer."""
    scored = not np.isnan(draft.ranked.probability_K).any()
    return ServedSlate(
        decision_id=decision_id,
        user_id=draft.ask.user_id,
        time=draft.ask.time,
        release_id=served.release,
        items=tuple(served.catalogue.ids[row] for row in draft.ranked.row_K),
        probabilities=tuple(draft.ranked.probability_K.tolist()) if scored else (),
        action_id=draft.retention.action_id if draft.retention else None,
        degraded=" ".join(draft.degraded),
        context=draft.ask.request.context,
    )


def answer_of(draft: Draft, *, served: ServedCatalogue) -> Recommendation:
    """What the caller reads."""
    return Recommendation(
        decision_id=draft.decision_id,
        user_id=draft.ask.request.user_id,
        time=draft.ask.time,
        release=served.release,
        items=_items(draft, served),
        profile=draft.profile,
        retention=_retention(draft),
        retention_reason=draft.retention_reason,
        degraded=draft.degraded,
    )


def _retention(draft: Draft) -> RetentionAction | None:
    if draft.retention is None or draft.ask.request.explain:
        return draft.retention
    return RetentionAction.model_validate(draft.retention.model_dump(exclude={"masked", "explanation"}))


def _items(draft: Draft, served: ServedCatalogue) -> list[RecommendedItem]:
    scores = draft.ranked.probability_K.tolist()
    items = [
        RecommendedItem(
            item_id=served.catalogue.ids[row], probability=None if np.isnan(score) else score, position=place
        )
        for place, (row, score) in enumerate(zip(draft.ranked.row_K, scores, strict=True), start=1)
    ]
    if not draft.ask.request.explain:
        return items
    liked = [interest.category for interest in draft.profile.interests] if draft.profile else []
    return [_explained(item, int(row), liked, served) for item, row in zip(items, draft.ranked.row_K, strict=True)]


def _explained(item: RecommendedItem, row: int, liked: list[str], served: ServedCatalogue) -> RecommendedItem:
    own = served.catalogue.categories_of(row)
    return item.model_copy(
        update={
            "text": served.catalogue.texts[row],
            "categories": list(own),
            "matches": [category for category in liked if category in own],
        }
    )
