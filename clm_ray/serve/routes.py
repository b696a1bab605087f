"""What all HTTP routes share: who is an administrator, and how an answer is written."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Header, Response
from pydantic import BaseModel

from clm_ray.errors import ForbiddenError

AdminToken = Annotated[str | None, Header(description="Administrators only")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        description="The same key and body again: the same answer, and nothing booked twice. Another body: 409",
    ),
]


@dataclass(frozen=True)
class Admin:
    """The token that makes a caller an administrator; None: nobody is one."""

    token: str | None = field(repr=False)

    def require(self, sent: str | None, *, field: str, what: str) -> None:
        """Raises ForbiddenError unless `sent` is the token."""
        if self.token is None or sent is None or not hmac.compare_digest(self.token.encode(), sent.encode()):
            raise ForbiddenError(
                f"only an administrator may {what}",
                field=field,
                fix="send the endpoint's admin token in the header X-Admin-Token",
            )


def json_of(answer: BaseModel, *, status: int = 200) -> Response:
    """Serialised once, by pydantic; fields that were left at their default stay out."""
    return Response(answer.model_dump_json(exclude_unset=True), status_code=status, media_type="application/json")
