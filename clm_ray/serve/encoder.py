"""Encoder: item vectors for what callers put into the store, by the text tower of the release.

It looks for items without a vector by itself, about once a second and when it starts: so a new release encodes what was put under the one before, and
a put that nobody waited for is not lost. The text tower is opened when there is something to encode.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from clm_ray.errors import ClmError
from clm_ray.serve import request_ids
from clm_ray.store.items import ChangedItem
from clm_ray.store.store import Store

if TYPE_CHECKING:
    from clm_ray.model.encode import ItemEncoder

_PERIOD_S = 1.0
_AT_ONCE = 64
"""Items per transaction: what is encoded first is rankable first."""


class Encoder:
    """Encodes for the release that is served, and for others beside it; one thread at a time."""

    def __init__(self, *, releases: Sequence[str], store: Store, open_encoder: Callable[[str], ItemEncoder]) -> None:
        """`releases`: by id, the served one first."""
        self._releases = releases
        self._store = store
        self._open = open_encoder
        self._encoders: dict[str, ItemEncoder] = {}
        self._lock = threading.Lock()
        self._tried = threading.Event()
        self._stopped = threading.Event()
        self._told: str | None = None

    async def loaded(self) -> str:
        """The release this replica was started with. Until everything that waited then has been tried once it answers when that is done; later on it
        answers at once, whatever is being encoded."""
        if not self._tried.is_set():
            await asyncio.to_thread(self._try)
        return self._releases[0]

    async def encode(self) -> int:
        """Encode all that waits; how many items that were. Raises ReleaseError where the release has no text tower to do it with, StoreError."""
        return await asyncio.to_thread(self.encode_waiting)

    def encode_waiting(self) -> int:
        """See `encode`."""
        with self._lock:
            count = 0
            for release in self._releases:
                while waiting := self._store.unencoded_items(release=release, limit=_AT_ONCE):
                    self._encode(release, waiting)
                    count += len(waiting)
            return count

    def _encode(self, release: str, waiting: list[ChangedItem]) -> None:
        from clm_ray.model.encode import NewItem

        if release not in self._encoders:
            self._encoders[release] = self._open(release)
        items = [
            NewItem(one.item.item_id, one.item.text, one.item.categories, one.item.vectors)
            for one in waiting
            if one.item is not None
        ]
        vectors = self._encoders[release].encode(items).astype("<f4")
        kept = [(one.item_id, one.version, vector.tobytes()) for one, vector in zip(waiting, vectors, strict=True)]
        self._store.put_item_vectors(kept, release=release)

    def start(self) -> Encoder:
        """Look for items without a vector from a thread of its own, until `stop`."""
        threading.Thread(target=self._watch, name="encoder", daemon=True).start()
        return self

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(_PERIOD_S):
            self._try()

    def _try(self) -> None:
        """Encode what waits; what prevents it is logged, once until it changes."""
        try:
            self.encode_waiting()
            self._told = None
        except ClmError as error:
            if self._told != error.problem:
                request_ids.log("items not encoded", level=logging.ERROR, problem=error.problem, fix=error.fix)
            self._told = error.problem
        self._tried.set()
