"""The releases that answer, each with its items as they were when the store was last asked, and which of them answers whom."""

from __future__ import annotations

import asyncio

from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.live_items import LiveItems, amended_catalogue
from clm_ray.serve.split import Challenger
from clm_ray.store.clock import Clock
from clm_ray.store.store import Store


class LiveReleases:
    """One that is served, and where two share the users a challenger. Belongs to one event loop; the store is called in threads."""

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
        """See which items are new, where that was last seen `every_s` ago."""
        for live in self._lives.values():
            if live.due(every_s=every_s):
                await asyncio.to_thread(live.get, every_s=every_s)
