"""A name for each request, in its answer and in every line that is logged for it, so that the two can be brought together.

The caller may give one (X-Request-Id); else one is made. Lines are JSON. They hold ids, parts, statuses and times, never what a request
says of a person.
"""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Iterable
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("clm_ray.serve")

HEADER = "X-Request-Id"
_READABLE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_MOST_NAMED = 32
"""Requests of one batch that a line names."""
_about: ContextVar[tuple[str, ...]] = ContextVar("clm_ray_requests", default=())


def current() -> str | None:
    """The id of the request that is being answered; None outside one, or where it is several."""
    ids = _about.get()
    return ids[0] if len(ids) == 1 else None


def about(ids: Iterable[str]) -> None:
    """What is logged from here on, in this task, is about these requests."""
    _about.set(tuple(dict.fromkeys(ids)))


def log(event: str, *, level: int = logging.INFO, failure: BaseException | None = None, **fields: object) -> None:
    """Log one line: what happened, for which requests, and `fields`. `failure`: its traceback goes along."""
    if not logger.isEnabledFor(level):
        return
    ids = _about.get()
    line = {"event": event, "request_ids": ids[:_MOST_NAMED], **fields}
    if len(ids) > _MOST_NAMED:
        line["requests"] = len(ids)
    logger.log(level, json.dumps(line, default=str), exc_info=failure)


class RequestIds:
    """ASGI middleware: names the request, answers with the name, and logs one line when it is answered.

    `answer` false: what is in front does that already (Ray Serve's own proxies do), and two headers would be one too many.
    """

    def __init__(self, app: ASGIApp, *, answer: bool) -> None:
        self._app = app
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _READABLE.fullmatch(given) else uuid.uuid4().hex
        about([request_id])
        started = time.perf_counter()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                if self._answer:
                    MutableHeaders(scope=message)[HEADER] = request_id
                ms = round(1000 * (time.perf_counter() - started), 3)
                route = getattr(scope.get("route"), "path", None)  # not the path: it may name a user
                log("answered", method=scope["method"], route=route, status=message["status"], ms=ms)
            await send(message)

        await self._app(scope, receive, named)
