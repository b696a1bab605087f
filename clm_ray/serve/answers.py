"""From what the parts found out to what a caller reads, and to what the log keeps.

Shape letters: C candidates of one user, K items of one slate, I catalogue rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.stages import Stage
from clm_ray.errors import ClmError
from clm_ray.messages import (
    BatchResult,
    Degraded,
    Profile,
    Ranking,
    Reason,
    Recommendation,
    RecommendedItem,
    RecommendRequest,
    RetentionAction,
)
from clm_ray.schema import DAY_US
from clm_ray.serve.asks import Ask
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.course import Course
from clm_ray.serve.hops import Explained, Moved, Ranked
from clm_ray.serve.item_rules import NONE_FORBIDDEN, Forbidden, without
from clm_ray.serve.problems import problem_of
from clm_ray.store.answers import Kept
from clm_ray.store.records import ServedSlate

_LONGEST_TEXT = 60
"""Of an item's text in a reason."""


NOT_RANKED = Ranked(np.empty(0, np.int32), np.empty(0, np.float32))
"""Of a draft that has no slate yet."""


@dataclass
class Draft:
    """An answer on its way through the parts. `ranked` is unscored (NaN) where no model ranked it. `kept`: what repeated requests are told, and so this one."""

    ask: Ask
    ranked: Ranked = NOT_RANKED
    degraded: list[Degraded] = field(default_factory=list)
    profile: Profile | None = None
    retention: RetentionAction | None = None
    retention_reason: str | None = None
    decision_id: str | None = None
    kept: Recommendation | None = None
    explained: Explained | None = None
    forbidden: Forbidden = NONE_FORBIDDEN

    @property
    def strategic_stage(self) -> Stage | None:
        """The stage whose strategy shapes the slate; None where none does."""
        return self.profile.stage if self.profile and self.ask.request.stage_strategy else None

    @property
    def scored(self) -> bool:
        """Whether a model ranked it, and there is something to rank."""
        return len(self.ranked.row_K) > 0 and not np.isnan(self.ranked.probability_K).any()


def first_draft(ask: Ask, *, served: ServedCatalogue) -> Draft:
    """What is known before anybody profiles or ranks."""
    return Draft(ask=ask, retention_reason=ask.why_not, forbidden=served.forbidden(ask.user_id, stage=None))


def popular_slate(draft: Draft, *, served: ServedCatalogue) -> Ranked:
    """The most popular of the candidates that may be shown, unscored: at the user's stage, where that is known."""
    ask, stage = draft.ask, draft.profile.stage if draft.profile else None
    if ask.row_C is None:
        may_be_shown = served.shelf.left_of(served.popular(stage), ask.wish, ask.time)
        row_K = without(may_be_shown, draft.forbidden)[: ask.k]
    else:
        row_C = without(ask.row_C, draft.forbidden)
        row_K = row_C[np.argsort(served.popular_place(stage)[row_C], kind="stable")][: ask.k]
    return Ranked(row_K, np.full(len(row_K), np.nan, np.float32))


def offered(ranked: Ranked, *, served: ServedCatalogue, forbidden: Forbidden) -> Ranked:
    """The slate without what was taken out since the ranker last looked, what is newer than the catalogue here, and what may not be shown."""
    row_K = ranked.row_K
    stays_K = (row_K < len(served.catalogue)) & ~np.isin(row_K, served.catalogue.gone_G)
    if len(forbidden.row_F):
        stays_K &= ~np.isin(row_K, forbidden.row_F)
    if stays_K.all():
        return ranked
    brought_K = None if ranked.brought_K is None else ranked.brought_K[stays_K]
    return Ranked(row_K[stays_K], ranked.probability_K[stays_K], ranked.shaping, brought_K)


def candidates_of(draft: Draft, *, served: ServedCatalogue) -> NDArray[np.int32] | None:
    """The rows to rank, without forbidden ones: those given; for a user without a history what users of that stage choose; else None, to be
    retrieved."""
    if draft.ask.row_C is None and "no_history" in draft.degraded:
        popular_I = served.popular(draft.profile.stage if draft.profile else None)
        may_be_shown = served.shelf.left_of(popular_I, draft.ask.wish, draft.ask.time)
        return without(may_be_shown, draft.forbidden)[: max(served.recipe.serve.retrieve, draft.ask.k)]
    return None if draft.ask.row_C is None else without(draft.ask.row_C, draft.forbidden)


def slate_of(draft: Draft, *, served: ServedCatalogue) -> ServedSlate:
    """What the log keeps of an answer that has its decision_id."""
    request = draft.ask.request
    assert isinstance(request, RecommendRequest), "only recommendations are logged"
    assert draft.decision_id is not None
    return ServedSlate(
        decision_id=draft.decision_id,
        user_id=draft.ask.user_id,
        time=draft.ask.time,
        release_id=served.release,
        arm=served.arm,
        items=tuple(served.catalogue.ids[row] for row in draft.ranked.row_K),
        probabilities=tuple(draft.ranked.probability_K.tolist()) if draft.scored else (),
        action_id=draft.retention.action_id if draft.retention else None,
        degraded=" ".join(what for what in draft.degraded if not what.startswith("explainer")),  # the slate is whole
        context=request.context,
        shaping=_shaping(draft, served),
    )


def _shaping(draft: Draft, served: ServedCatalogue) -> dict[str, Any]:
    said = dict(draft.ranked.shaping) if draft.scored else served.shelf.shaping(draft.ask.wish)
    return said | ({"left_out": draft.ask.left_out} if draft.ask.left_out else {})


def kept_of(draft: Draft) -> Kept:
    """What the store keeps for repeated requests."""
    assert draft.ask.claim is not None
    assert draft.kept is not None
    text = draft.kept.model_dump_json(exclude_unset=True)
    return Kept(draft.ask.claim.key, draft.ask.claim.token, text, draft.decision_id)


def answer_of(draft: Draft, *, served: ServedCatalogue, course: Course, ended: float) -> Recommendation:
    """What the caller reads. `ended`: now, by the event loop's clock, s."""
    ask = draft.ask
    answer = Recommendation(
        decision_id=draft.decision_id,
        user_id=ask.request.user_id,
        time=ask.time,
        release=served.release,
        items=_items(draft, served),
        profile=_profile(draft, served),
        retention=_retention(draft),
        retention_reason=draft.retention_reason,
        degraded=draft.degraded,
    )
    asked: dict[str, Any] = {"arm": served.arm} if served.arm else {}
    if ask.request.explain and draft.forbidden.rules:
        asked["item_rules"] = list(draft.forbidden.rules)
    if ask.request.unknown_items == "skip":
        asked["skipped"] = ask.skipped
    if ask.request.debug:
        parts = {"waiting": course.started - ask.arrived, **course.timings, "total": ended - ask.arrived}
        asked["timings"] = {part: round(1000 * seconds, 3) for part, seconds in parts.items()}
    return answer.model_copy(update=asked) if asked else answer


def ranking_of(answer: Recommendation) -> Ranking:
    """The part of an answer that is about items."""
    parts = {name: getattr(answer, name) for name in Ranking.model_fields if name in answer.model_fields_set}
    return Ranking.model_construct(**parts)


def result_of(index: int, result: Recommendation | BaseException) -> BatchResult:
    """What a batch says of one of its requests."""
    if isinstance(result, Recommendation):
        return BatchResult(index=index, status=200, answer=result)
    if not isinstance(result, ClmError):
        raise result
    problem = problem_of(result)
    return BatchResult(index=index, status=problem.status, problem=problem)


def _profile(draft: Draft, served: ServedCatalogue) -> Profile | None:
    """With what the strategy of the stage did to this slate."""
    profile, brought_K = draft.profile, draft.ranked.brought_K
    if profile is None or profile.strategy is None or brought_K is None:
        return profile
    brought = [served.catalogue.ids[row] for row in draft.ranked.row_K[brought_K]]
    return profile.model_copy(update={"strategy": profile.strategy.model_copy(update={"brought_in": brought})})


def _retention(draft: Draft) -> RetentionAction | None:
    if draft.retention is None or draft.ask.request.explain:
        return draft.retention
    return RetentionAction.model_validate(draft.retention.model_dump(exclude={"masked", "expected", "explanation"}))


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
    explained = [_explained(item, int(row), liked, served) for item, row in zip(items, draft.ranked.row_K, strict=True)]
    if draft.explained is None:
        return explained
    return [
        item.model_copy(update={"reasons": reasons_of(draft.explained, place, draft.ask.time, served)})
        for place, item in enumerate(explained)
    ]


def reasons_of(explained: Explained, place: int, time: int, served: ServedCatalogue) -> list[Reason]:
    """What moved the item at `place` of the slate, in words. `time`: of the answer, µs."""
    probability = float(explained.probability_K[place])
    return [
        Reason(
            text=_in_words(moved, probability, time, served),
            event_type=moved.event_type,
            item_id=served.catalogue.item(moved.row),
            time=moved.time,
            effect=moved.effect,
        )
        for moved in explained.moved[place]
    ]


def _in_words(moved: Moved, probability: float, time: int, served: ServedCatalogue) -> str:
    what = moved.event_type
    if served.catalogue.item(moved.row) is not None:
        text = served.catalogue.texts[moved.row]
        what += f" of “{text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + '…'}”"
    days = (time - moved.time) / DAY_US
    when = (
        f"{days:.0f} days"
        if days >= 2
        else f"{24 * days:.0f} hours"
        if days >= 2 / 24
        else f"{1440 * days:.0f} minutes"
    )
    more = "more" if moved.effect > 0 else "less"
    return f"{what} {when} before makes it {more} likely: {probability:.3%} instead of {probability - moved.effect:.3%}"


def _explained(item: RecommendedItem, row: int, liked: list[str], served: ServedCatalogue) -> RecommendedItem:
    own = served.catalogue.categories_of(row)
    return item.model_copy(
        update={
            "text": served.catalogue.texts[row],
            "categories": list(own),
            "matches": [category for category in liked if category in own],
        }
    )
