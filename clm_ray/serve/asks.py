"""A recommend request, checked against the served release and put into its numbers.

Shape letters: C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clm_ray.errors import RequestError
from clm_ray.features.history import EMPTY, History
from clm_ray.messages import RecentEvent, RecommendRequest
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.checks import check_event, check_id

_NAMED = 10
"""Unknown candidates that the error names."""


@dataclass(frozen=True)
class Ask:
    """What one caller wants. `user_id`: as everything behind the gateway knows the user; `time`: the moment of the answer, µs; `row_C`: candidate rows, None to retrieve them."""

    request: RecommendRequest
    user_id: str
    time: int
    row_C: NDArray[np.int32] | None
    k: int
    recent: History

    @property
    def live(self) -> bool:
        """Whether this is about now: shown to somebody, logged and acted upon."""
        return self.request.as_of is None


def read_ask(request: RecommendRequest, *, served: ServedCatalogue, now: int) -> Ask:
    """Raises RequestError naming the field: an id with spaces, unknown or too many candidates, a wrong recent event, a moment in the future."""
    if refusal := check_id("user_id", request.user_id):
        raise RequestError(refusal.reason, field=refusal.field, value=request.user_id, fix=refusal.fix)
    if request.as_of is not None and request.as_of > now:
        raise RequestError("lies in the future", field="as_of", value=request.as_of, fix="leave it out for now")
    time = now if request.as_of is None else request.as_of
    return Ask(
        request=request,
        user_id=served.known_as(request.user_id),
        time=time,
        row_C=None if request.candidates is None else _candidate_rows(request.candidates, served),
        k=served.recipe.serve.k if request.k is None else request.k,
        recent=_recent(request.recent_events, served, time=time, now=now),
    )


def _candidate_rows(candidates: list[str], served: ServedCatalogue) -> NDArray[np.int32]:
    limit = served.recipe.serve.max_candidates
    if len(candidates) > limit:
        raise RequestError(
            f"has more than {limit} items", field="candidates", value=len(candidates), fix="send fewer, or none at all"
        )
    wanted = list(dict.fromkeys(candidates))
    row_C = served.catalogue.rows(wanted)
    unknown = [item for item, row in zip(wanted, row_C, strict=True) if row == 0]
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        raise RequestError(
            f"not in the catalogue: {', '.join(unknown[:_NAMED])[:400]}{more}",
            field=f"candidates[{candidates.index(unknown[0])}]",
            value=unknown[0],
            fix="leave unknown items out; new ones are known from the release that was trained with them",
        )
    return row_C


def _recent(events: list[RecentEvent], served: ServedCatalogue, *, time: int, now: int) -> History:
    if not events:
        return EMPTY
    for place, event in enumerate(events):
        if refusal := check_event(event, served=served, now=now):
            raise RequestError(
                refusal.reason,
                field=f"recent_events[{place}].{refusal.field}",
                value=getattr(event, refusal.field),
                fix=refusal.fix,
            )
    code_of = served.vocabulary.index
    moments = [time - 1 if event.timestamp is None else event.timestamp for event in events]
    order = sorted(range(len(events)), key=lambda place: moments[place])
    return History(
        item_N=served.catalogue.rows([events[place].item_id or "" for place in order]),
        event_N=np.array([code_of[events[place].event_type] for place in order], np.int16),
        value_N=np.array([_value(events[place]) for place in order], np.float32),
        time_N=np.array([moments[place] for place in order], np.int64),
    )


def _value(event: RecentEvent) -> float:
    return float("nan") if event.value is None else event.value
