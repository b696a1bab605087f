"""Errors as RFC 9457 problem details: one shape for everything that goes wrong, with the field and the fix."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clm_ray.errors import ClmError, EndpointError, RequestError, StoreError
from clm_ray.messages import NO_CONTROL_CHARACTERS, FieldProblem, Problem
from clm_ray.serve import request_ids

MEDIA_TYPE = "application/problem+json"
_MOST_ERRORS = 20
_LONGEST_VALUE = 120
_TITLES = {
    400: "The request cannot be read",
    403: "Not allowed",
    404: "No such resource",
    405: "Method not allowed here",
    409: "In conflict with an earlier request",
    413: "The request is too large",
    415: "The body is not JSON",
    422: "The request is not valid",
    429: "Too many requests",
    500: "The endpoint failed",
    503: "Not ready",
}
_NO_SUCH = "see /docs for what there is"
_FIXES = {
    400: "send one JSON object",
    404: _NO_SUCH,
    405: _NO_SUCH,
    413: "send less at once",
    500: "report it with its request_id; the log has the cause",
}


def shortened(value: object) -> str:
    """A value as it may be shown: plain ASCII, cut to a readable length."""
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("ascii", "backslashreplace").decode("ascii")
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."


def path_of(location: Sequence[object]) -> str:
    """`("body", "events", 3, "value")` as `events[3].value`."""
    path = ""
    for part in location[1:] if location and location[0] in {"body", "query", "path", "header"} else location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return shortened(path)


def sentence(error: dict[str, Any]) -> str:
    """A validation error in one sentence, without the validator's own prefixes."""
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] == NO_CONTROL_CHARACTERS:
        return "must not contain control characters"
    message = str(error["msg"])
    return shortened(message.removeprefix("Value error, "))


def problem_of(error: ClmError) -> Problem:
    """A `ClmError` as problem details. What is not the caller's doing is a 503 for the store and endpoint, else a 500."""
    status = 503 if isinstance(error, StoreError) else 500
    if isinstance(error, RequestError | EndpointError):
        status = error.status
    return Problem(
        type=f"urn:clm-ray:{type(error).__name__.removesuffix('Error').lower()}",
        title=_TITLES.get(status, "Error"),
        status=status,
        detail=shortened(error.problem) if len(error.problem) <= _LONGEST_VALUE else error.problem[:500],
        field=shortened(error.field) or None,
        value=None if error.value is None else shortened(error.value),
        fix=error.fix or None,
    )


def validation_problem(errors: Sequence[Any]) -> Problem:
    """Pydantic's errors as problem details: the first in front, all of them behind."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return plain_problem(400, f"The body is not valid JSON: {shortened(first['ctx']['error'])}")
    if first["type"] == "missing" and tuple(first["loc"]) == ("body",):
        return plain_problem(422, "The body is missing", fix="send one JSON object with Content-Type: application/json")
    if tuple(first["loc"]) == ("body",) and first["type"] in {"model_attributes_type", "model_type"}:
        fix = "send one JSON object with Content-Type: application/json"
        return plain_problem(422, "The body is not a JSON object", fix=fix)
    unknown = first["type"] == "extra_forbidden"
    return Problem(
        type="urn:clm-ray:request",
        title=_TITLES[422],
        status=422,
        detail=f"{path_of(first['loc'])}: {'there is no such field' if unknown else sentence(first)}",
        field=path_of(first["loc"]),
        value=None if first["type"] == "missing" else shortened(first.get("input")),
        fix="leave it out, or see /docs for the fields"
        if unknown
        else "correct this field; /docs has the types and limits",
        errors=[FieldProblem(field=path_of(e["loc"]), problem=sentence(e)) for e in errors[:_MOST_ERRORS]],
    )


def plain_problem(status: int, detail: str, *, fix: str | None = None) -> Problem:
    """A problem that has no field."""
    title = _TITLES.get(status, "Error")
    return Problem(type="about:blank", title=title, status=status, detail=detail, fix=fix or _FIXES.get(status))


def respond(problem: Problem, *, headers: dict[str, str] | None = None) -> Response:
    """The problem as an HTTP answer."""
    body = problem.model_copy(update={"request_id": request_ids.current()}).model_dump_json(exclude_none=True)
    return Response(body, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


def install(app: FastAPI) -> None:
    """Answer every error of `app` with problem details."""
    app.add_middleware(Failures)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return respond(validation_problem(error.errors()))

    @app.exception_handler(ClmError)
    async def refused(request: Request, error: ClmError) -> Response:
        problem = problem_of(error)
        if problem.status >= 500:
            # Without the value, which may be personal.
            request_ids.log("failed", level=logging.ERROR, field=error.field, problem=error.problem, fix=error.fix)
        wait_s = error.retry_after_s if isinstance(error, RequestError) else 1 if problem.status == 503 else None
        return respond(problem, headers=None if wait_s is None else {"Retry-After": str(wait_s)})

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return respond(plain_problem(error.status_code, str(error.detail)), headers=dict(error.headers or {}))


def describe(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """OpenAPI as FastAPI makes it, with the problems under the media type they really have. For `app.openapi`."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        made_before = app.openapi_schema is not None
        spec = generate()
        for path in () if made_before else spec["paths"].values():
            for response in (r for operation in path.values() for r in operation["responses"].values()):
                content = response.get("content", {})
                if content.get("application/json", {}).get("schema", {}).get("$ref", "").endswith("/Problem"):
                    content[MEDIA_TYPE] = content.pop("application/json")
        return spec

    return openapi


RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": _TITLES[status]} for status in (400, 403, 409, 413, 422, 429, 500, 503)
}
"""What the routes may answer beside their result, for OpenAPI."""


class Failures:
    """ASGI middleware: what nobody foresaw is a 500 that says nothing of its cause; the log has it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            request_ids.log("failed", level=logging.ERROR, failure=error)
            if begun or scope["type"] != "http":
                raise
            await respond(plain_problem(500, "Something broke while answering"))(scope, receive, send)


class BodyLimit:
    """ASGI middleware: stops reading a body that is longer than `limit` bytes, with a 413."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limit:
                raise HTTPException(413, f"The body is longer than {self._limit} bytes")
            return message

        await self._app(scope, counted, send)
