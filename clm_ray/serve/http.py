"""The HTTP routes: a thin skin over the gateway, with OpenAPI generated from the messages."""

from __future__ import annotations

import hmac
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Response
from pydantic import BaseModel

import clm_ray
from clm_ray.errors import ForbiddenError, RequestError
from clm_ray.messages import (
    EventsAnswer,
    EventsRequest,
    Readiness,
    Recommendation,
    RecommendRequest,
    UserProfile,
    Version,
    parse_time,
)
from clm_ray.serve import problems
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.observed import RequestCounts

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Longer bodies are refused."""
_DESCRIPTION = """Who a user is, what to show, and what to do to keep them. Errors are RFC 9457 problem details that name the
field and the fix. A user's new events count in the very next recommendation."""

# Annotations are resolved by FastAPI in this module's namespace, so what routes refer to stands here.
AdminToken = Annotated[str | None, Header(description="Administrators only")]
Moment = Annotated[str | None, Query(description="Administrators only: µs since 1970, or ISO 8601 with an offset")]


def build_http(gateway: Gateway, *, admin_token: str | None) -> FastAPI:
    """The application that serves `gateway`. Without `admin_token` nobody may ask `as_of` questions."""
    app = FastAPI(
        title="clm_ray",
        version=clm_ray.__version__,
        description=_DESCRIPTION,
        responses=problems.RESPONSES,
    )
    app.add_middleware(problems.BodyLimit, limit=MAX_BODY_BYTES)
    app.add_middleware(RequestCounts, telemetry=gateway.telemetry)
    problems.install(app)

    @app.post(
        "/v1/recommend", response_model=Recommendation, summary="What to show to a user, and what to do to keep them"
    )
    async def recommend(request: RecommendRequest, x_admin_token: AdminToken = None) -> Response:
        if request.as_of is not None:
            _require_admin(x_admin_token, admin_token)
        return _json(await gateway.recommend(request))

    @app.post("/v1/events", response_model=EventsAnswer, summary="Hand in events; answered when they are durable")
    async def events(request: EventsRequest) -> Response:
        return _json(await gateway.events(request))

    # `:path` lets user ids contain slashes (sent as %2F).
    @app.get("/v1/users/{user_id:path}/profile", response_model=UserProfile, summary="Who a user is")
    async def profile(user_id: str, as_of: Moment = None, x_admin_token: AdminToken = None) -> Response:
        if as_of is not None:
            _require_admin(x_admin_token, admin_token)
        return _json(await gateway.profile(user_id, as_of=_moment(as_of)))

    @app.get("/v1/version", response_model=Version, summary="What is being served, and its limits")
    async def version() -> Response:
        return _json(await gateway.version())

    @app.get("/healthz", response_model=dict[str, str], summary="Is the process alive?")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    not_ready: dict[int | str, dict[str, Any]] = {503: {"model": Readiness, "description": "Some part cannot answer"}}

    @app.get("/readyz", response_model=Readiness, responses=not_ready, summary="Can every part answer?")
    async def readyz() -> Response:
        readiness = await gateway.ready()
        return _json(readiness, status=200 if readiness.ready else 503)

    app.openapi = problems.describe(app)  # type: ignore[method-assign]
    return app


def _json(answer: BaseModel, *, status: int = 200) -> Response:
    """Serialised once, by pydantic; fields that were left at their default stay out."""
    return Response(answer.model_dump_json(exclude_unset=True), status_code=status, media_type="application/json")


def _require_admin(sent: str | None, token: str | None) -> None:
    if token is None or sent is None or not hmac.compare_digest(token.encode(), sent.encode()):
        raise ForbiddenError(
            "only an administrator may ask for another moment",
            field="as_of",
            fix="leave it out, or send the endpoint's admin token in the header X-Admin-Token",
        )


def _moment(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_time(int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text)
    except ValueError as error:
        raise RequestError(str(error), field="as_of", value=text, fix="e.g. 2017-11-05T10:00:00Z") from None
