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

_NAMED = 10
"""Unknown candidates that the error names."""


@dataclass(frozen=True)
class Ask:
    """What one caller wants. `time`: the moment of the answer, µs; `row_C`: candidate rows, None to retrieve them."""

    request: RecommendRequest
    time: int
    row_C: NDArray[np.int32] | None
    k: int
    recent: History

    @property
    def live(self) -> bool:
        """Whether this is about now: shown to somebody, logged and acted upon."""
        return self.request.as_of is None


def read_ask(request: RecommendRequest, *, served: ServedCatalogue, now: int) -> Ask:
    """Raises RequestError naming the field: unknown or too many candidates, an unknown event type, a moment in the future."""
    if request.as_of is not None and request.as_of > now:
        raise RequestError("lies in the future", field="as_of", value=request.as_of, fix="leave it out for now")
    time = now if request.as_of is None else request.as_of
    return Ask(
        request=request,
        time=time,
        row_C=None if request.candidates is None else _candidate_rows(request.candidates, served),
        k=served.recipe.serve.k if request.k is None else request.k,
        recent=_recent(request.recent_events, served, time),
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


def _recent(events: list[RecentEvent], served: ServedCatalogue, time: int) -> History:
    if not events:
        return EMPTY
    code_of = served.vocabulary.index
    for place, event in enumerate(events):
        if event.event_type not in code_of:
            raise RequestError(
                "is not an event type of the recipe",
                field=f"recent_events[{place}].event_type",
                value=event.event_type,
                fix=f"use one of {served.event_types}",
            )
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
