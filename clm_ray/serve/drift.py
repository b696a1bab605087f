"""Prediction drift: the scores of the last while beside those that the release was expected to give.

Shape letters: B bins (see `metrics.scores`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clm_ray.metrics.scores import Counts, ScoreReference, count_scores
from clm_ray.release.scores import score_reference_of
from clm_ray.serve import measures
from clm_ray.serve.telemetry import Telemetry

SLOT_S = 300.0
"""The window moves by so much."""
SLOTS = 12
"""Slots of the window: an hour."""
LEAST_REQUESTS = 200
"""Fewer requests in the window say nothing: the index of so many is noise."""
_MOST_SCORES = 2048
"""Of one batch; of more, every second, third ... score is counted."""


class Window:
    """Counts of the last `SLOTS` slots of time, and how many requests they come from."""

    def __init__(self, *, now: Callable[[], float]) -> None:
        self._now = now
        self._slots: deque[tuple[int, Counts, int]] = deque(maxlen=SLOTS)

    def add(self, counts: Counts, *, requests: int) -> None:
        """Add to the slot of this moment."""
        slot = int(self._now() // SLOT_S)
        if self._slots and self._slots[-1][0] == slot:
            _, before, n = self._slots.pop()
            counts, requests = before + counts, n + requests
        self._slots.append((slot, counts, requests))

    def whole(self) -> tuple[Counts, int]:
        """(counts [B], requests) of the window that ends now."""
        oldest = int(self._now() // SLOT_S) - SLOTS
        kept = [(counts, n) for slot, counts, n in self._slots if slot > oldest]
        return np.sum([counts for counts, _ in kept], axis=0), sum(n for _, n in kept)


class ScoreWatch:
    """Counts what a ranker scores, by release and kind of candidates, and keeps the gauge of its drift. Any thread may call it."""

    def __init__(
        self,
        releases: Path,
        *,
        telemetry: Telemetry,
        now: Callable[[], float] = time.monotonic,
        open_reference: Callable[[Path], ScoreReference | None] = score_reference_of,
    ) -> None:
        """`releases`: the folder of the releases."""
        self._folder = releases
        self._telemetry = telemetry
        self._now = now
        self._open = open_reference
        self._lock = threading.Lock()
        self._references: dict[str, ScoreReference | None] = {}
        self._windows: dict[tuple[str, str], Window] = {}

    def add(self, release: str, *, scores: Sequence[NDArray[np.float32]], given: Sequence[bool]) -> None:
        """One batch: per request the scores of its candidates, and whether the caller gave these (else they were retrieved)."""
        for kind, wanted in (("given", True), ("retrieved", False)):
            mine = [score_C for score_C, own in zip(scores, given, strict=True) if own == wanted and len(score_C)]
            if mine:
                self._telemetry.count(measures.SCORES, release, kind, by=sum(map(len, mine)))
                self._count(release, kind, np.concatenate(mine), requests=len(mine))

    def _count(self, release: str, kind: str, score_N: NDArray[np.float32], *, requests: int) -> None:
        counts = count_scores(score_N[:: -(-len(score_N) // _MOST_SCORES)])
        with self._lock:
            if release not in self._references:
                self._references[release] = self._open(self._folder / release)
            reference = self._references[release]
            if reference is None or not reference.counts[kind].sum():
                return
            window = self._windows.setdefault((release, kind), Window(now=self._now))
            window.add(counts, requests=requests)
            actual, seen = window.whole()
        if seen >= LEAST_REQUESTS:
            drift = reference.drift(kind, actual=actual)
            self._telemetry.set(measures.PREDICTION_DRIFT, release, kind, value=drift)
