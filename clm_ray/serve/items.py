"""What callers may do with items: put them, take them out, list what was put and taken out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from clm_ray.errors import ClmError, RequestError
from clm_ray.messages.items import Item, ItemDeleted, ItemPage, ItemsAnswer, ItemsRequest, ItemVerdict, StoredItem
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.checks import check_id
from clm_ray.serve.course import cause_of
from clm_ray.serve.live_items import LiveItems
from clm_ray.store.clock import Clock
from clm_ray.store.items import ChangedItem, PutItem
from clm_ray.store.store import Store

NO_ENCODER = "nothing encodes items here"
_LATE = "the encoder is busy; the item takes part as soon as it has its vector"
_ELSEWHEN = "outside its time of availability"


class Items:
    """The store is called in threads. `encode`: has waiting items encoded; None: nobody does."""

    def __init__(
        self,
        *,
        live: LiveItems[ServedCatalogue],
        store: Store,
        clock: Clock,
        encode: Callable[[], Awaitable[int]] | None,
        encoder_s: float,
    ) -> None:
        self._live = live
        self._store = store
        self._clock = clock
        self._encode = encode
        self._encoder_s = encoder_s

    async def put(self, request: ItemsRequest) -> ItemsAnswer:
        """Put items; durable when this returns. Raises RequestError naming the field, StoreError."""
        put = [_checked(item, f"items[{n}]") for n, item in enumerate(request.items)]
        ids = [item.item_id for item in put]
        for n, item_id in enumerate(ids):
            if item_id in ids[:n]:
                raise RequestError("is given twice", field=f"items[{n}].item_id", value=item_id, fix="give it once")
        now = self._clock.now_us()
        await asyncio.to_thread(self._store.put_items, [(item.item_id, item) for item in put], now=now)
        trouble = await self._encoded()
        served = await asyncio.to_thread(self._live.get, every_s=0.0)
        offered = dict(zip(ids, served.catalogue.offered(ids), strict=True))
        return ItemsAnswer(items=[_verdict(item, bool(offered[item.item_id]), trouble, now) for item in put])

    async def delete(self, item_id: str) -> ItemDeleted:
        """Take an item out; the same again is no error. Raises RequestError (404) where nobody ever heard of it, StoreError."""
        served = await asyncio.to_thread(self._live.get)
        if item_id not in served.catalogue.row_of and not await asyncio.to_thread(self._store.known_items, [item_id]):
            unknown = RequestError("no such item", field="item_id", value=item_id, fix="see GET /v1/items")
            unknown.status = 404
            raise unknown
        await asyncio.to_thread(self._store.put_items, [(item_id, None)], now=self._clock.now_us())
        await asyncio.to_thread(self._live.get, every_s=0.0)
        return ItemDeleted(item_id=item_id, deleted=True)

    async def page(self, *, cursor: str | None, limit: int) -> ItemPage:
        """What was put and taken out, by id. The cursor is the last id of the page before. Raises StoreError."""
        found = await asyncio.to_thread(self._store.item_page, after=cursor or "", limit=limit)
        following = found[-1].item_id if len(found) == limit else None
        return ItemPage(items=[_stored(one) for one in found], next=following)

    async def _encoded(self) -> str | None:
        """Have what waits encoded; what kept it from being so."""
        if self._encode is None:
            return NO_ENCODER
        try:
            async with asyncio.timeout(self._encoder_s):
                await self._encode()
        except TimeoutError:
            return _LATE
        except Exception as error:
            cause = getattr(error, "cause", None) or error
            return cause.problem if isinstance(cause, ClmError) else cause_of(error)
        return None


def _checked(item: Item, field: str) -> PutItem:
    if refusal := check_id("item_id", item.item_id):
        raise RequestError(refusal.reason, field=f"{field}.item_id", value=item.item_id, fix=refusal.fix)
    if (
        item.available_from is not None
        and item.available_until is not None
        and item.available_until <= item.available_from
    ):
        raise RequestError(
            "must be later than available_from",
            field=f"{field}.available_until",
            value=item.available_until,
            fix="give a later moment, or leave it out",
        )
    return PutItem(
        item_id=item.item_id,
        text=item.text.strip() or item.item_id,
        categories=tuple(dict.fromkeys(item.categories)),
        numeric=dict(item.numeric),
        vectors=None if item.vectors is None else tuple(item.vectors),
        available_from=item.available_from,
        available_until=item.available_until,
        flags=tuple(dict.fromkeys(item.flags)),
    )


def _verdict(item: PutItem, offered: bool, trouble: str | None, now: int) -> ItemVerdict:
    if offered and trouble is None:
        return ItemVerdict(item_id=item.item_id, status="rankable")
    early = item.available_from is not None and now < item.available_from
    late = item.available_until is not None and now >= item.available_until
    note = trouble or (_ELSEWHEN if early or late else _LATE)
    return ItemVerdict(item_id=item.item_id, status="stored", note=note)


def _stored(one: ChangedItem) -> StoredItem:
    if one.item is None:
        return StoredItem(item_id=one.item_id, deleted=True)
    return StoredItem.model_validate({**asdict(one.item), "deleted": False})
