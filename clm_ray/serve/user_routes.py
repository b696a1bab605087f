"""The HTTP routes about users. Who reads or erases everything about somebody shows the admin token."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query, Response

from clm_ray.messages.users import MAX_PAGE, Erasure, UserExport, UserSettings, UserSettingsAnswer
from clm_ray.serve.routes import Admin, AdminToken, json_of
from clm_ray.serve.users import Users

Cursor = Annotated[str | None, Query(max_length=2000, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Records of a page")]


def add_user_routes(app: FastAPI, users: Users, *, admin: Admin) -> None:
    """PUT, export and DELETE of /v1/users/{id}. `:path` lets user ids contain slashes (sent as %2F)."""

    @app.get(
        "/v1/users/{user_id:path}/export",
        response_model=UserExport,
        summary="Everything that is kept of a user",
        tags=["users"],
    )
    async def export(
        user_id: str, cursor: Cursor = None, limit: Limit = MAX_PAGE, x_admin_token: AdminToken = None
    ) -> Response:
        admin.require(x_admin_token, field="user_id", what="read all that is kept of somebody")
        return json_of(await users.export(user_id, cursor=cursor, limit=limit))

    @app.put(
        "/v1/users/{user_id:path}",
        response_model=UserSettingsAnswer,
        summary="What a user said of consent and time zone",
        tags=["users"],
    )
    async def put(user_id: str, settings: UserSettings) -> Response:
        return json_of(await users.put(user_id, settings))

    @app.delete(
        "/v1/users/{user_id:path}", response_model=Erasure, summary="Erase a user from the store", tags=["users"]
    )
    async def erase(user_id: str, x_admin_token: AdminToken = None) -> Response:
        admin.require(x_admin_token, field="user_id", what="erase somebody")
        return json_of(await users.erase(user_id))
