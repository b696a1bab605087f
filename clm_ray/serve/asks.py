"""A recommend request, checked against the served release and put into its numbers.

Shape letters: C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clm_ray.errors import RequestError
from clm_ray.features.history import EMPTY, History
from clm_ray.messages import RankRequest, RecentEvent, RecommendRequest
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.checks import check_event, check_id
from clm_ray.serve.hops import ANYTHING, Wish
from clm_ray.store.answers import Claim

NOBODY = ""
"""The user id of anonymous users: no user has it, so nothing is found or kept under it."""
AS_OF_REASON = "an as_of request books no decision and is not logged"
ANONYMOUS_REASON = "an anonymous user gets no action, and nothing is logged"
_NAMED = 10
"""Unknown candidates that the error names."""


@dataclass(frozen=True)
class Ask:
    """What one caller wants. `user_id`: as everything behind the gateway knows the user, NOBODY for an anonymous one; `time`: the moment of the
    answer, µs; `row_C`: candidate rows, None to retrieve them; `wish`: which of them; `left_out`: candidates
    that may not be shown; `skipped`: unknown candidates; `arrived`: when it came, by the event loop's
    clock, s. `served`: the release that answers. `ranks_only`: nothing but an order is wanted. `claim`: under which its answer is kept, None where it is not.
    """

    request: RankRequest
    served: ServedCatalogue
    user_id: str
    time: int
    row_C: NDArray[np.int32] | None
    k: int
    recent: History
    wish: Wish = ANYTHING
    left_out: int = 0
    skipped: list[str] = field(default_factory=list)
    arrived: float = 0.0
    ranks_only: bool = False
    request_id: str | None = None
    claim: Claim | None = None

    @property
    def until(self) -> float | None:
        """By when to answer, by the event loop's clock, s."""
        deadline = self.request.deadline_ms
        return None if deadline is None else self.arrived + deadline / 1000

    @property
    def live(self) -> bool:
        """Whether this is shown to somebody who is known: logged and acted upon."""
        return self.why_not is None

    @property
    def why_not(self) -> str | None:
        """Why nothing is booked for this ask, and nothing logged; None where it is."""
        if self.ranks_only:
            return "only a ranking was asked for"
        if self.request.as_of is not None:
            return AS_OF_REASON
        return ANONYMOUS_REASON if self.request.anonymous else None


@dataclass(frozen=True)
class Wanted:
    """The candidates of a request, each once. row_C: their rows, 0 for what is not offered, as far as is known here."""

    items: list[str]
    row_C: NDArray[np.int32]

    @property
    def known(self) -> bool:
        """Whether all of them are offered."""
        return bool(self.row_C.all())


def wanted_of(request: RankRequest, served: ServedCatalogue) -> Wanted | None:
    """None: no candidates are given, or more than are allowed."""
    if request.candidates is None or len(request.candidates) > served.recipe.serve.max_candidates:
        return None
    items = list(dict.fromkeys(request.candidates))
    return Wanted(items, served.catalogue.offered(items))


def read_ask(
    request: RankRequest,
    *,
    served: ServedCatalogue,
    wanted: Wanted | None,
    now: int,
    arrived: float = 0.0,
    request_id: str | None = None,
) -> Ask:
    """`wanted`: what `wanted_of` says of both.

    Raises RequestError naming the field: no user or an id with spaces, unknown or too many candidates, a wrong recent event, a moment in the future.
    """
    user_id = _user(request, served)
    if request.as_of is not None and request.as_of > now:
        raise RequestError("lies in the future", field="as_of", value=request.as_of, fix="leave it out for now")
    time = now if request.as_of is None else request.as_of
    row_C, skipped = _candidates(request, wanted, most=served.recipe.serve.max_candidates)
    wish, given = _wish(request, served), 0 if row_C is None else len(row_C)
    if row_C is not None:
        row_C = served.shelf.left_of(row_C, wish, time)
    return Ask(
        request=request,
        served=served,
        user_id=user_id,
        time=time,
        row_C=row_C,
        k=served.recipe.serve.k if request.k is None else request.k,
        recent=_recent(request.recent_events, served, time=time, now=now),
        wish=wish,
        left_out=0 if row_C is None else given - len(row_C),
        skipped=skipped,
        arrived=arrived,
        ranks_only=not isinstance(request, RecommendRequest),
        request_id=request_id,
    )


def _wish(request: RankRequest, served: ServedCatalogue) -> Wish:
    said = request.filters
    if said is None:
        return ANYTHING if request.diversity is None else Wish(diversity=request.diversity)
    catalogue = served.catalogue
    return Wish(
        allow=None if said.allow is None else catalogue.offered(said.allow),
        deny=catalogue.rows(said.deny),
        categories=None if said.categories is None else tuple(said.categories),
        flags=tuple(said.flags),
        without_categories=tuple(said.without_categories),
        without_flags=tuple(said.without_flags),
        without_chosen=said.without_chosen,
        diversity=request.diversity,
        said=said.model_dump(exclude_defaults=True),
    )


def _user(request: RankRequest, served: ServedCatalogue) -> str:
    if request.user_id is None:
        if not request.anonymous:
            raise RequestError("is missing", field="user_id", fix="give it, or set anonymous to true")
        return NOBODY
    if request.anonymous:
        raise RequestError("an anonymous user has no id", field="user_id", fix="leave out one of the two")
    if refusal := check_id("user_id", request.user_id):
        raise RequestError(refusal.reason, field=refusal.field, value=request.user_id, fix=refusal.fix)
    return served.known_as(request.user_id)


def _candidates(
    request: RankRequest, wanted: Wanted | None, *, most: int
) -> tuple[NDArray[np.int32] | None, list[str]]:
    """(rows, or None to retrieve them; unknown candidates that are left out)."""
    if request.candidates is None:
        return None, []
    if wanted is None:
        raise RequestError(
            f"has more than {most} items",
            field="candidates",
            value=len(request.candidates),
            fix="send fewer, or none at all",
        )
    if wanted.known:
        return wanted.row_C, []
    unknown = [item for item, row in zip(wanted.items, wanted.row_C, strict=True) if row == 0]
    if request.unknown_items == "refuse":
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        raise RequestError(
            f"not in the catalogue: {', '.join(unknown[:_NAMED])[:400]}{more}",
            field=f"candidates[{request.candidates.index(unknown[0])}]",
            value=unknown[0],
            fix="leave unknown items out, set unknown_items to skip, or hand new items in with PUT /v1/items",
        )
    return wanted.row_C[wanted.row_C > 0], unknown


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
