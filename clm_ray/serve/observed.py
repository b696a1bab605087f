"""What the metrics keep of requests and answers: a few additions per batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clm_ray.messages import EventsAnswer
from clm_ray.serve import measures
from clm_ray.serve.answers import Draft
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.telemetry import Telemetry

OTHER = "other"
"""Route of requests that no route took: their paths are anybody's text."""
ABSENT = "absent"
"""Stage or action of an answer that has none."""


def note_answers(telemetry: Telemetry, drafts: Sequence[Draft], *, served: ServedCatalogue, seconds: float) -> None:
    """Count a batch of recommendations that took `seconds`: arms, stages, actions, reasons of degradation."""
    release = served.release
    telemetry.observe(measures.HOP_SECONDS, "batch", "ok", value=seconds)
    telemetry.observe(measures.BATCH_SIZE, "recommend", value=len(drafts))
    telemetry.count(measures.ANSWERS, release, served.arm, by=len(drafts))
    for stage, times in Counter(d.profile.stage if d.profile else ABSENT for d in drafts).items():
        telemetry.count(measures.STAGES, release, stage, by=times)
    for action, times in Counter(d.retention.action if d.retention else ABSENT for d in drafts).items():
        telemetry.count(measures.ACTIONS, release, action, by=times)
    for reason, times in Counter(reason for d in drafts for reason in d.degraded).items():
        telemetry.count(measures.DEGRADED, release, reason, by=times)


def note_events(telemetry: Telemetry, answer: EventsAnswer) -> None:
    """Count the verdicts on a batch of events."""
    for verdict in ("accepted", "duplicate", "rejected"):
        telemetry.count(measures.EVENTS, verdict, by=getattr(answer, verdict))


class RequestCounts:
    """ASGI middleware: counts requests by the route that took them and by their outcome."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path_format", OTHER)
            self._telemetry.count(measures.REQUESTS, route, outcome(status))


def outcome(status: int) -> str:
    """The outcome that a status stands for."""
    if status == 429:
        return "overloaded"
    return "ok" if status < 400 else "refused" if status < 500 else "failed"
