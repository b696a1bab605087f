"""A release as the store's items amend it: what was put or deleted since its catalogue was made, looked up about once a second.

An item of the release's catalogue is changed in its own row; any other has the row of its number behind the catalogue's last. So every replica
gives the same row the same meaning, whenever it looked. A new item takes part once it has a vector of this release; one that is
changed keeps its old text and vector until then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from clm_ray.errors import StoreError
from clm_ray.features.catalogue import Amendment, Catalogue
from clm_ray.serve import request_ids
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.shelf import Shelf
from clm_ray.store.items import ChangedItem, Mark
from clm_ray.store.store import Store

if TYPE_CHECKING:  # the gateway needs no torch
    from clm_ray.model.inference import Scorer

R = TypeVar("R")

EVERY_S = 1.0
"""How often the store is asked, seconds."""
SOON_S = 0.05
"""How often at most it is asked for an item that nobody knows, seconds."""


class LiveItems(Generic[R]):
    """Usable from any thread. A store that cannot be read costs the news, not the release."""

    def __init__(
        self,
        base: R,
        *,
        release: str,
        store: Store,
        amend: Callable[[R, Sequence[ChangedItem], int], R],
        now: Callable[[], int],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """`amend`: the release with all changes, as of a moment (µs). `now`: the endpoint's clock, µs."""
        self.current = base
        self._base = base
        self._release = release
        self._store = store
        self._amend = amend
        self._now = now
        self._timer = timer
        self._lock = threading.Lock()
        self._mark = Mark()
        self._changes: dict[int, ChangedItem] = {}
        self._looked = float("-inf")
        self._amended_at = 0

    def due(self, *, every_s: float = EVERY_S) -> bool:
        """Whether `get` would ask the store."""
        return self._timer() - self._looked >= every_s

    def get(self, *, every_s: float = EVERY_S) -> R:
        """The release as it is now; asks the store where it was last asked `every_s` or more ago. Who asks about once a second (`EVERY_S`) does not wait
        for somebody else who is asking."""
        if self.due(every_s=every_s) and self._lock.acquire(blocking=every_s < EVERY_S):
            try:
                if self.due(every_s=every_s):
                    self._look()
            finally:
                self._lock.release()
        return self.current

    def _look(self) -> None:
        self._looked = self._timer()
        try:
            self._read()
        finally:
            self._looked = self._timer()  # a store that takes seconds is not asked again at once

    def _read(self) -> None:
        try:
            found, self._mark = self._store.changed_items(release=self._release, after=self._mark)
        except StoreError as error:
            request_ids.log("items not read", level=logging.WARNING, problem=error.problem)
            return
        for change in found:
            before = self._changes.get(change.number)
            waits = change.item is not None and change.vector is None
            if not (waits and before is not None and before.vector is not None):
                self._changes[change.number] = change
        now = self._now()
        if found or any(self._amended_at < moment <= now for moment in self._moments()):
            self.current = self._amend(self._base, list(self._changes.values()), now)
            self._amended_at = now

    def _moments(self) -> Iterator[int]:
        """When an item begins or ends to be available."""
        for change in self._changes.values():
            if change.item is not None:
                yield from (m for m in (change.item.available_from, change.item.available_until) if m is not None)


def amended_catalogue(served: ServedCatalogue, changes: Sequence[ChangedItem], now: int) -> ServedCatalogue:
    """For the gateway: the catalogue, and what is popular of it."""
    catalogue = served.catalogue.amended([one for one, _ in amendments(served.catalogue, changes, now=now)])
    popular_I = served.popular_I[~np.isin(served.popular_I, catalogue.gone_G)]
    rules = served.item_rules
    if rules is not None:
        of = served.catalogue.row_of
        rules = rules.amended(
            {
                of.get(one.item_id, len(of) + one.number - 1): frozenset(one.item.flags)
                for one in changes
                if one.item is not None
            }
        )
    shelf = amended_shelf(served.shelf, catalogue, changes)
    at = {stage: rows[~np.isin(rows, catalogue.gone_G)] for stage, rows in served.popular_at.items()}
    return replace(
        served, catalogue=catalogue, popular_I=popular_I, popular_at=at, item_rules=rules, amended_shelf=shelf
    )


def amended_shelf(shelf: Shelf, catalogue: Catalogue, changes: Sequence[ChangedItem]) -> Shelf:
    """For whoever applies rules: availability and flags. `catalogue`: with the changes, `shelf`: without them."""
    known = len(shelf.from_I)
    items = {}
    for change in changes:
        own = shelf.catalogue.row_of.get(change.item_id)
        if change.item is not None and change.vector is not None:
            item = change.item
            row = known + change.number - 1 if own is None else own
            items[row] = (item.available_from, item.available_until, item.flags)
    return shelf.amended(catalogue, items)


def amended_scorer(scorer: Scorer, changes: Sequence[ChangedItem], now: int) -> Scorer:
    """For whoever scores: catalogue and item vectors."""
    found = amendments(scorer.items, changes, now=now)
    vectors = [(one.row, np.frombuffer(vector, "<f4")) for one, vector in found if vector is not None]
    row_N = np.array([row for row, _ in vectors], np.int64)
    vector_ND = np.array([vector for _, vector in vectors], np.float32)
    return scorer.amended(scorer.items.amended([one for one, _ in found]), row_N, vector_ND)


def amendments(known: Catalogue, changes: Sequence[ChangedItem], *, now: int) -> list[tuple[Amendment, bytes | None]]:
    """What each change makes of its row, and its vector; nothing where it has none yet. `known`: the release's own catalogue."""
    found: list[tuple[Amendment, bytes | None]] = []
    for change in changes:
        own = known.row_of.get(change.item_id)
        row = len(known) + change.number - 1 if own is None else own
        if change.item is None:
            text, categories = ("", ()) if own is None else (known.texts[own], known.categories_of(own))
            found.append((Amendment(row, change.item_id, text, categories, gone=True), None))
        elif change.vector is not None:
            item = change.item
            early = item.available_from is not None and now < item.available_from
            late = item.available_until is not None and now >= item.available_until
            found.append((Amendment(row, item.item_id, item.text, item.categories, gone=early or late), change.vector))
    return found
