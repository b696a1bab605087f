"""The HTTP routes about items."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Query, Response

from clm_ray.messages import NO_CONTROL_CHARACTERS, Problem
from clm_ray.messages.items import MAX_ITEMS, ItemDeleted, ItemPage, ItemsAnswer, ItemsRequest
from clm_ray.serve.items import Items
from clm_ray.serve.routes import json_of

Cursor = Annotated[
    str | None, Query(max_length=200, pattern=NO_CONTROL_CHARACTERS, description="`next` of the page before")
]
ItemId = Annotated[str, Path(min_length=1, max_length=200, pattern=NO_CONTROL_CHARACTERS)]
Limit = Annotated[int, Query(ge=1, le=MAX_ITEMS, description="Items of a page")]


def add_item_routes(app: FastAPI, items: Items) -> None:
    """PUT and GET of /v1/items, DELETE of /v1/items/{id}. `:path` lets item ids contain slashes (sent as %2F)."""

    @app.put("/v1/items", response_model=ItemsAnswer, summary="Put items: new ones, or what changed", tags=["items"])
    async def put(request: ItemsRequest) -> Response:
        return json_of(await items.put(request))

    @app.get("/v1/items", response_model=ItemPage, summary="What was put and taken out, by id", tags=["items"])
    async def page(cursor: Cursor = None, limit: Limit = MAX_ITEMS) -> Response:
        return json_of(await items.page(cursor=cursor, limit=limit))

    @app.delete(
        "/v1/items/{item_id:path}",
        response_model=ItemDeleted,
        responses={404: {"model": Problem, "description": "Nobody ever heard of the item"}},
        summary="Offer an item no longer",
        tags=["items"],
    )
    async def delete(item_id: ItemId) -> Response:
        return json_of(await items.delete(item_id))
