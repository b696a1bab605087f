"""Recording what the endpoint does, without the request path paying for it.

A call into Ray's metrics checks tags, builds a point and locks, so recording here only adds to a dict; a thread hands what has come together to
Ray about once a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray.util.metrics import Counter, Gauge, Histogram

from clm_ray.serve.measures import MEASURES, Measure

Write = Callable[[Measure, float, dict[str, str]], None]
"""Takes one point: the amount to add to a counter, one observation of a histogram, the value of a gauge."""
Tags = tuple[str, ...]

_PERIOD_S = 1.0
_MOST_OBSERVATIONS = 256
"""Of one histogram and its tags between two flushes; of more, every second one is kept, again and again: quantiles stay, counts do not."""


class Telemetry:
    """Collects points and hands them over on `flush`. Any thread may record."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._counts: dict[tuple[Measure, Tags], float] = {}
        self._observed: dict[tuple[Measure, Tags], list[float]] = {}
        self._gauges: dict[tuple[Measure, Tags], float] = {}
        self._stopped = threading.Event()

    def count(self, measure: Measure, *tags: str, by: float = 1.0) -> None:
        """Add to a counter; `tags` in the order of `measure.tags`."""
        key = _key(measure, tags)
        if by > 0:
            with self._lock:
                self._counts[key] = self._counts.get(key, 0.0) + by

    def observe(self, measure: Measure, *tags: str, value: float) -> None:
        """One observation of a histogram."""
        with self._lock:
            values = self._observed.setdefault(_key(measure, tags), [])
            values.append(value)
            if len(values) > _MOST_OBSERVATIONS:
                del values[::2]

    def set(self, measure: Measure, *tags: str, value: float) -> None:
        """The value of a gauge from now on."""
        with self._lock:
            self._gauges[_key(measure, tags)] = value

    @contextmanager
    def timed(self, measure: Measure, *tags: str) -> Iterator[None]:
        """Observe how long the block takes, seconds, whether it ends well or not."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.observe(measure, *tags, value=time.perf_counter() - start)

    def flush(self) -> None:
        """Hand over what has come together since the last time."""
        with self._lock:
            counts, self._counts = self._counts, {}
            observed, self._observed = self._observed, {}
            gauges, self._gauges = self._gauges, {}
        for points in (counts, gauges):
            for (measure, tags), value in points.items():
                self._write(measure, value, dict(zip(measure.tags, tags, strict=True)))
        for (measure, tags), values in observed.items():
            named = dict(zip(measure.tags, tags, strict=True))
            for value in values:
                self._write(measure, value, named)

    def start(self) -> Telemetry:
        """Flush about once a second from a thread of its own, until `stop`."""
        threading.Thread(target=self._run, name="telemetry", daemon=True).start()
        return self

    def stop(self) -> None:
        """End the thread; what it has not handed over is left."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(_PERIOD_S):
            self.flush()


def ray_telemetry() -> Telemetry:
    """Telemetry of a replica, running. To be made where Ray runs: metrics made before are not exported."""
    made: dict[str, Counter | Gauge | Histogram] = {}
    for measure in MEASURES.values():
        if measure.kind == "histogram":
            made[measure.name] = Histogram(measure.name, measure.text, list(measure.bounds), measure.tags)
        elif measure.kind == "counter":
            made[measure.name] = Counter(measure.name, measure.text, measure.tags)
        else:
            made[measure.name] = Gauge(measure.name, measure.text, measure.tags)

    def write(measure: Measure, value: float, tags: dict[str, str]) -> None:
        metric = made[measure.name]
        if isinstance(metric, Counter):
            metric.inc(value, tags)
        elif isinstance(metric, Histogram):
            metric.observe(value, tags)
        else:
            metric.set(value, tags)

    return Telemetry(write).start()


def unrecorded() -> Telemetry:
    """Telemetry that goes nowhere."""
    return Telemetry(lambda _measure, _value, _tags: None)


def _key(measure: Measure, tags: Tags) -> tuple[Measure, Tags]:
    assert len(tags) == len(measure.tags), f"{measure.name} has the tags {measure.tags}"
    return measure, tags
