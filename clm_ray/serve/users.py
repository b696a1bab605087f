"""What callers may do with a user: set consent and time zone, read what is kept, erase it."""

from __future__ import annotations

import asyncio
import base64
import binascii
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from clm_ray.errors import RequestError
from clm_ray.messages import Name
from clm_ray.messages.users import Erasure, ExportedRecord, UserExport, UserSettings, UserSettingsAnswer
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.checks import check_id
from clm_ray.store.clock import Clock
from clm_ray.store.export import START
from clm_ray.store.records import UserOverlay
from clm_ray.store.store import Store

USER_TABLE = "user_table"
"""Kind of the record that the release keeps."""
REMAINS = (
    "the workspace's files (log, datasets, evaluations, user tables of models and releases), until jobs/erase.py --pending has run; "
    "sums over many users that name nobody; the weights of models, until they are trained again"
)
_NAME: TypeAdapter[str] = TypeAdapter(Name)
Place = tuple[int, list[Any]]


def check_user(user_id: str) -> str:
    """The id from a path. Raises RequestError where no user can have it."""
    try:
        _NAME.validate_python(user_id)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        raise RequestError(message, field="user_id", value=user_id, fix="1 to 200 printable characters") from None
    if refusal := check_id("user_id", user_id):
        raise RequestError(refusal.reason, field=refusal.field, value=user_id, fix=refusal.fix)
    return user_id


class Users:
    """The store is called in threads. `folder`: of the release, whose user table is read; None where there is none."""

    def __init__(self, *, served: ServedCatalogue, store: Store, clock: Clock, folder: Path | None) -> None:
        self._served = served
        self._store = store
        self._clock = clock
        self._folder = folder

    async def put(self, user_id: str, settings: UserSettings) -> UserSettingsAnswer:
        """Replace what the user said; it counts for the next decision. Raises RequestError, StoreError."""
        known = self._served.known_as(check_user(user_id))
        overlay = UserOverlay(known, consent=settings.consent, timezone=settings.timezone)
        await asyncio.to_thread(self._store.put_overlays, [overlay])
        return UserSettingsAnswer(user_id=user_id, consent=settings.consent, timezone=settings.timezone)

    async def export(self, user_id: str, *, cursor: str | None, limit: int) -> UserExport:
        """A page of what is kept of the user. Raises RequestError, StoreError."""
        known = self._served.known_as(check_user(user_id))
        after = None if cursor is None else _place(cursor)
        records = [] if cursor is not None else await asyncio.to_thread(self._user_table, known)
        room = limit - len(records)
        found = await asyncio.to_thread(self._store.export, known, after=after, limit=room) if room else []
        last = found[-1].place if found else START
        records += [ExportedRecord(kind=one.kind, data=one.data) for one in found]
        return UserExport(
            user_id=user_id,
            time=self._clock.now_us(),
            release=self._served.release,
            records=records,
            next=_cursor(last) if len(found) == room else None,
        )

    async def erase(self, user_id: str) -> Erasure:
        """Remove the user from the store, for good. Raises RequestError, StoreError."""
        known = self._served.known_as(check_user(user_id))
        erased = await asyncio.to_thread(self._store.erase, [known], clock=self._clock.now_us, pending=True)
        return Erasure(user_id=user_id, erased_at=erased.at, removed=erased.removed, remains=REMAINS)

    def _user_table(self, user_id: str) -> list[ExportedRecord]:
        if self._folder is None:
            return []
        rows = pq.read_table(self._folder / "users.parquet", filters=[("user_id", "=", user_id)]).to_pylist()
        return [
            ExportedRecord(
                kind=USER_TABLE,
                data={k: dict(v or ()) if k in ("categorical", "numeric") else v for k, v in row.items()},
            )
            for row in rows
        ]


def _cursor(place: Place) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


def _place(cursor: str) -> Place:
    try:
        first, key = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if type(first) is int and isinstance(key, list):
            return first, key
    except (binascii.Error, ValueError, TypeError):
        pass
    raise RequestError(
        "is not a place in the list", field="cursor", value=cursor, fix="give back `next` of the page before"
    )
