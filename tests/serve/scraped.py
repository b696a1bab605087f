"""Reading metrics as Prometheus does: over HTTP, from the port that Ray gives for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx
import ray
from prometheus_client.parser import text_string_to_metric_families

T = TypeVar("T")


def scrape() -> list[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of every sample of this Ray's one node."""
    return list(_samples())


def _samples() -> Iterator[tuple[str, dict[str, str], float]]:
    (node,) = ray.nodes()
    text = httpx.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=30.0).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def until(ask: Callable[[], T | None], *, seconds: float = 60.0) -> T:
    """Ask until the answer is not empty: metrics arrive a second or two after what they count."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, "the metrics did not come"
        time.sleep(0.3)
    return answer
