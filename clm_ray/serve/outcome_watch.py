"""Calibration drift: from time to time, what was shown is set beside what became of it, from the store alone."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from clm_ray.metrics.calibration import ece, reliability
from clm_ray.metrics.outcomes import Shown
from clm_ray.schema import DAY_US, HOUR_US
from clm_ray.serve import measures
from clm_ray.serve.args import OutcomeArgs
from clm_ray.serve.telemetry import Telemetry
from clm_ray.store.clock import Clock
from clm_ray.store.outcomes import Meaning, Outcome, outcomes, shown
from clm_ray.store.store import Store

logger = logging.getLogger("clm_ray.serve")

BINS = 10


class OutcomeWatch:
    """Looks at outcomes every `args.every_s` seconds, in a thread of its own, and keeps the gauges of each release and arm."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        meaning: Meaning,
        window_hours: float,
        args: OutcomeArgs,
        telemetry: Telemetry,
    ) -> None:
        """`window_hours`: how long after a slate its answers count."""
        self._store = store
        self._clock = clock
        self._meaning = meaning
        self._window_us = int(window_hours * HOUR_US)
        self._args = args
        self._telemetry = telemetry
        self._stopped = threading.Event()

    def start(self) -> None:
        """Look now and then, until `stop`."""
        threading.Thread(target=self._run, name="outcome-watch", daemon=True).start()

    def stop(self) -> None:
        """End the thread after the look that it may be in."""
        self._stopped.set()

    def look(self) -> None:
        """One look: slates whose window has passed, the newest `most_slates` of the last `days`."""
        until = self._clock.now_us() - self._window_us
        by_version: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
        for outcome in outcomes(
            self._store,
            since=until - int(self._args.days * DAY_US),
            until=until,
            meaning=self._meaning,
            window_us=self._window_us,
            most=self._args.most_slates,
        ):
            by_version[outcome.slate.release_id, outcome.slate.arm].append(outcome)
        self._show(by_version)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.look()
                self._telemetry.count(measures.OUTCOME_LOOKS, "done")
            except Exception as error:  # a store that is away now may be back the next time
                logger.warning("no look at the outcomes: %s", type(error).__name__)
                self._telemetry.count(measures.OUTCOME_LOOKS, "failed")
            self._stopped.wait(self._args.every_s)

    def _show(self, by_version: Mapping[tuple[str, str], Sequence[Outcome]]) -> None:
        for version, found in by_version.items():
            self._telemetry.set(measures.OUTCOME_SLATES, *version, value=len(found))
            self._calibration(version, shown(found))

    def _calibration(self, version: tuple[str, str], found: Shown) -> None:
        scored_N = np.isfinite(found.probability_N)
        label_N, p_N = found.label_N[scored_N], found.probability_N[scored_N]
        if not len(label_N):
            return
        tell = self._telemetry.set
        tell(measures.OUTCOME_CTR, *version, value=float(found.label_N.mean()))
        tell(measures.CALIBRATION_ERROR, *version, value=ece(label_N, probability=p_N, bins=BINS))
        tell(measures.CALIBRATION_RATIO, *version, value=float(label_N.sum() / max(p_N.sum(), 1e-9)))
        table = reliability(label_N, probability=p_N, bins=BINS)
        for place, (predicted, observed) in enumerate(zip(table.predicted_B, table.observed_B, strict=True), start=1):
            tell(measures.OUTCOME_PREDICTED, *version, str(place), value=float(predicted))
            tell(measures.OUTCOME_OBSERVED, *version, str(place), value=float(observed))
