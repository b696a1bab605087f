"""When a call is tried again, after how long, and what its failure means."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from pydantic import ValidationError

from clm_ray.errors import ClmError, ConflictError, EndpointError, ForbiddenError, OverloadedError, RequestError
from clm_ray.messages import Problem

_PROBLEM = "application/problem+json"
_LONGEST_WAIT_S = 5.0
_BY_STATUS: dict[int, type[RequestError]] = {403: ForbiddenError, 409: ConflictError, 429: OverloadedError}


@dataclass
class Attempts:
    """Of one call: `retries` further ones after the first."""

    base_url: str
    retries: int
    made: int = 0

    def after(self, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """Seconds until the next attempt, None where the outcome is the answer. Raises the failure where there is no next one."""
        if isinstance(outcome, httpx.Response) and outcome.is_success:
            return None
        if isinstance(outcome, httpx.Response):
            failure, again = _failure(outcome), _worth_repeating(outcome)
            asked = outcome.headers.get("Retry-After")
        else:
            failure = EndpointError(
                f"cannot be reached: {outcome}", field="base_url", value=self.base_url, fix="is it running?"
            )
            again, asked = not isinstance(outcome, httpx.ReadTimeout | httpx.UnsupportedProtocol), None
        if not again or self.made >= self.retries:
            raise failure
        self.made += 1
        return _pause(self.made - 1, asked)


def _worth_repeating(response: httpx.Response) -> bool:
    """502-504 and 429; a 409 that says when to come back; and a 500 that is not ours: a proxy in front turned a 502-504 into it."""
    ours = response.headers.get("content-type", "").startswith(_PROBLEM)
    if response.status_code == 409:
        return "Retry-After" in response.headers
    return response.status_code in {429, 502, 503, 504} or (response.status_code == 500 and not ours)


def _pause(attempt: int, retry_after: str | None) -> float:
    """Seconds before the next attempt: what the endpoint asks for, else 0.1, 0.2, 0.4, ..."""
    if retry_after is not None and retry_after.isdigit():
        return min(float(retry_after), _LONGEST_WAIT_S)
    return min(0.1 * 2**attempt, _LONGEST_WAIT_S)


def _failure(response: httpx.Response) -> ClmError:
    """The error that an answer stands for."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        text = response.text[:200].strip() or response.reason_phrase
        problem = Problem(type="about:blank", title="Error", status=response.status_code, detail=text)
    status = response.status_code
    kind = _BY_STATUS.get(status, RequestError) if status < 500 else EndpointError
    error = kind(problem.detail, field=problem.field or "", value=problem.value, fix=problem.fix or "")
    error.status = status
    return error
