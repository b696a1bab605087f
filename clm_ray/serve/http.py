"""The HTTP routes: a thin skin over the gateway, with OpenAPI generated from the messages."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Response

import clm_ray
from clm_ray.errors import RequestError
from clm_ray.messages import (
    BatchAnswer,
    BatchRequest,
    EventsAnswer,
    EventsRequest,
    Ranking,
    RankRequest,
    Readiness,
    Recommendation,
    RecommendRequest,
    UserProfile,
    Version,
    parse_time,
)
from clm_ray.serve import problems
from clm_ray.serve.fast_json import FastJson
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.item_routes import add_item_routes
from clm_ray.serve.observed import RequestCounts
from clm_ray.serve.policy_routes import add_policy_routes
from clm_ray.serve.request_ids import RequestIds
from clm_ray.serve.routes import Admin, AdminToken, IdempotencyKey, json_of
from clm_ray.serve.user_routes import add_user_routes

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Longer bodies are refused."""
_DESCRIPTION = """Who a user is, what to show, and what to do to keep them. Errors are RFC 9457 problem details that name the
field and the fix. A user's new events count in the very next recommendation."""

_ANOTHER_MOMENT = "ask for another moment"

# Annotations are resolved by FastAPI in this module's namespace, so what routes refer to stands here.
Moment = Annotated[str | None, Query(description="Administrators only: µs since 1970, or ISO 8601 with an offset")]


def build_http(gateway: Gateway, *, admin_token: str | None, name_answers: bool = True) -> FastAPI:
    """The application that serves `gateway`. Without `admin_token` nobody is an administrator. `name_answers`: see `RequestIds`."""
    app = FastAPI(
        title="clm_ray",
        version=clm_ray.__version__,
        description=_DESCRIPTION,
        responses=problems.RESPONSES,
    )
    app.router.route_class = FastJson
    app.add_middleware(problems.BodyLimit, limit=MAX_BODY_BYTES)
    app.add_middleware(RequestCounts, telemetry=gateway.telemetry)
    problems.install(app)
    app.add_middleware(RequestIds, answer=name_answers)
    admin = Admin(admin_token)

    @app.post(
        "/v1/recommend", response_model=Recommendation, summary="What to show to a user, and what to do to keep them"
    )
    async def recommend(
        request: RecommendRequest, idempotency_key: IdempotencyKey = None, x_admin_token: AdminToken = None
    ) -> Response:
        if request.as_of is not None:
            admin.require(x_admin_token, field="as_of", what=_ANOTHER_MOMENT)
        return json_of(await gateway.recommend(request, key=idempotency_key))

    @app.post("/v1/recommend/batch", response_model=BatchAnswer, summary="Many recommendations at once")
    async def recommend_batch(
        request: BatchRequest, idempotency_key: IdempotencyKey = None, x_admin_token: AdminToken = None
    ) -> Response:
        if any(one.as_of is not None for one in request.requests):
            admin.require(x_admin_token, field="as_of", what=_ANOTHER_MOMENT)
        return json_of(await gateway.recommend_batch(request, key=idempotency_key))

    @app.post("/v1/rank", response_model=Ranking, summary="Items in order for a user: no decision, nothing logged")
    async def rank(request: RankRequest, x_admin_token: AdminToken = None) -> Response:
        if request.as_of is not None:
            admin.require(x_admin_token, field="as_of", what=_ANOTHER_MOMENT)
        return json_of(await gateway.rank(request))

    @app.post("/v1/events", response_model=EventsAnswer, summary="Hand in events; answered when they are durable")
    async def events(request: EventsRequest) -> Response:
        return json_of(await gateway.events(request))

    # `:path` lets user ids contain slashes (sent as %2F).
    @app.get("/v1/users/{user_id:path}/profile", response_model=UserProfile, summary="Who a user is")
    async def profile(user_id: str, as_of: Moment = None, x_admin_token: AdminToken = None) -> Response:
        if as_of is not None:
            admin.require(x_admin_token, field="as_of", what=_ANOTHER_MOMENT)
        return json_of(await gateway.profile(user_id, as_of=_moment(as_of)))

    add_policy_routes(app, gateway.policy, admin=admin)  # first: a user's id may end in anything
    add_user_routes(app, gateway.users, admin=admin)
    add_item_routes(app, gateway.items)

    @app.get("/v1/version", response_model=Version, summary="What is being served, and its limits")
    async def version() -> Response:
        return json_of(await gateway.version())

    @app.get("/healthz", response_model=dict[str, str], summary="Is the process alive?")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    not_ready: dict[int | str, dict[str, Any]] = {503: {"model": Readiness, "description": "Some part cannot answer"}}

    @app.get("/readyz", response_model=Readiness, responses=not_ready, summary="Can every part answer?")
    async def readyz() -> Response:
        readiness = await gateway.ready()
        return json_of(readiness, status=200 if readiness.ready else 503)

    app.openapi = problems.describe(app)  # type: ignore[method-assign]
    return app


def _moment(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_time(int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text)
    except ValueError as error:
        raise RequestError(str(error), field="as_of", value=text, fix="e.g. 2017-11-05T10:00:00Z") from None
