"""Telemetry that remembers."""

from __future__ import annotations

from clm_ray.serve.measures import Measure
from clm_ray.serve.telemetry import Telemetry


class Recorded:
    """Takes what telemetry hands over: (name, *tags) → the sum of a counter, the values of a histogram, the last value of a gauge."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, ...], float] = {}
        self.observed: dict[tuple[str, ...], list[float]] = {}
        self.gauges: dict[tuple[str, ...], float] = {}
        self.telemetry = Telemetry(self._write)

    def _write(self, measure: Measure, value: float, tags: dict[str, str]) -> None:
        key = (measure.name, *tags.values())
        if measure.kind == "counter":
            self.counters[key] = self.counters.get(key, 0.0) + value
        elif measure.kind == "histogram":
            self.observed.setdefault(key, []).append(value)
        else:
            self.gauges[key] = value
