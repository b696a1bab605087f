"""Releases that a replica has open.

A replica opens its own release when it starts. While a new release is rolled out it also meets batches of the other one, and
opens that from the folder beside its own: rows and vectors of two releases are never mixed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from clm_ray.serve.live_items import EVERY_S, LiveItems

R = TypeVar("R")


class Opened(Generic[R]):
    """The release of this replica and the last few others it was asked for, by id (the name of the folder)."""

    def __init__(
        self,
        folder: Path,
        *,
        open_release: Callable[[Path], R],
        live: Callable[[R, str], LiveItems[R]] | None = None,
        also: Sequence[str] = (),
        keep: int = 2,
    ) -> None:
        """Opens `folder` and the releases `also` beside it at once, so that a damaged release is noticed before it serves; these stay open, and of
        others so many that there are `keep` beside those of `also`. `live`: how the items of the store amend a release (given with its id); None:
        they do not.
        """
        self.release = folder.name
        self._folder = folder.parent
        self._open = open_release
        self._live = live
        self._stay = {folder.name, *also}
        self._keep = keep + len(also)
        self._lock = threading.Lock()
        self._opened: OrderedDict[str, R | LiveItems[R]] = OrderedDict()
        for name in (folder.name, *also):
            self._opened[name] = self._opening(name)

    def get(self, release: str, *, every_s: float = EVERY_S) -> R:
        """An open release, its items as the store has them, asked at most `every_s` ago. Raises ReleaseError when there is no such release beside this
        replica's own."""
        opened = self._get(release)
        return opened.get(every_s=every_s) if isinstance(opened, LiveItems) else opened

    def current(self, release: str) -> R:
        """As `get`, with its items as they were when the store was last asked: asks nobody."""
        opened = self._get(release)
        return opened.current if isinstance(opened, LiveItems) else opened

    def _opening(self, release: str) -> R | LiveItems[R]:
        opened = self._open(self._folder / release)
        return opened if self._live is None else self._live(opened, release)

    def _get(self, release: str) -> R | LiveItems[R]:
        with self._lock:
            if release not in self._opened:
                self._opened[release] = self._opening(release)
            self._opened.move_to_end(release)
            while len(self._opened) > self._keep:
                self._opened.pop(next(name for name in self._opened if name not in self._stay))
            return self._opened[release]
