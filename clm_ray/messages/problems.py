"""What is wrong with a request."""

from __future__ import annotations

from clm_ray.messages.fields import Answer


class FieldProblem(Answer):
    """One field that is wrong."""

    field: str
    problem: str


class Problem(Answer):
    """An error, as RFC 9457 problem details."""

    type: str
    """Names the kind of problem."""
    title: str
    status: int
    """The HTTP status."""
    detail: str
    """What is wrong, in one sentence."""
    field: str | None = None
    """The request field that is wrong."""
    value: str | None = None
    """What was found there, shortened."""
    fix: str | None = None
    """What to do about it."""
    errors: list[FieldProblem] | None = None
    """Where several fields are wrong: all of them, up to twenty."""
    request_id: str | None = None
    """The id of the request, which the log has too."""
