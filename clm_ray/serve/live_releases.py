"""The releases that answer, each with its items as they were when the store was last asked, and which of them answers whom."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from clm_ray.serve import request_ids
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.course import cause_of
from clm_ray.serve.live_items import EVERY_S, LiveItems, amended_catalogue
from clm_ray.serve.split import Challenger
from clm_ray.store.clock import Clock
from clm_ray.store.store import Store

LOOK_S = 0.25
"""How long answers wait for a look at the store, seconds. A store that takes longer costs the news, not the answer."""


class LiveReleases:
    """One that is served, and where two share the users a challenger. Belongs to one event loop; the store is asked in a thread of its own, so that what
    waits for the store elsewhere does not hold it up."""

    def __init__(
        self, served: ServedCatalogue, *, challenger: Challenger | None = None, store: Store, clock: Clock
    ) -> None:
        self._challenger = challenger
        self._lives = {
            one.release: LiveItems(one, release=one.release, store=store, amend=amended_catalogue, now=clock.now_us)
            for one in (served, *([challenger.served] if challenger else []))
        }
        self.names = list(self._lives)
        """The served one first."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="news")
        self._look: asyncio.Future[None] | None = None
        self._look_until = 0.0

    @property
    def served(self) -> ServedCatalogue:
        """The release that is served."""
        return self.now(self.names[0])

    def now(self, release: str) -> ServedCatalogue:
        """The release with its items as they were when the store was last asked. Rows keep their meaning, whenever that was."""
        return self._lives[release].current

    def live(self, release: str) -> LiveItems[ServedCatalogue]:
        """The same, for who asks the store."""
        return self._lives[release]

    def to(self, user_id: str | None) -> ServedCatalogue:
        """The release that answers this user; anonymous ones are answered by the one that is served."""
        challenger = self._challenger
        if challenger is None or user_id is None or not challenger.takes(self.served.known_as(user_id)):
            return self.served
        return self.now(challenger.served.release)

    async def look(self, *, every_s: float) -> None:
        """See which items are new, where that was last seen `every_s` ago. A look is waited for until it is `LOOK_S` old, and by nobody who asks about once
        a second (`EVERY_S`) and did not begin it."""
        if not any(live.due(every_s=every_s) for live in self._lives.values()):
            return
        under_way = self._look
        if under_way is not None and not under_way.done():
            if every_s >= EVERY_S:
                return
            await self._wait(under_way)  # and ask again: it may have begun before what is looked for was there
            if not under_way.done():
                return
        if self._look is under_way:
            loop = asyncio.get_running_loop()
            self._look = loop.run_in_executor(self._thread, self._see, every_s)
            self._look_until = loop.time() + LOOK_S
        assert self._look is not None, "it has just begun"
        await self._wait(self._look)

    async def _wait(self, look: asyncio.Future[None]) -> None:
        left = self._look_until - asyncio.get_running_loop().time()
        if left > 0:
            await asyncio.wait([look], timeout=left)

    def _see(self, every_s: float) -> None:
        for release, live in self._lives.items():
            try:
                live.get(every_s=every_s)
            except Exception as error:
                request_ids.log("items not read", level=logging.ERROR, release=release, cause=cause_of(error))
