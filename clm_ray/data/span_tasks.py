"""The spans of a user with very many events, made by other workers while the bucket's own one writes what they gave.

The files are the same however many workers there are: what comes back is taken in the order of the spans.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import ray

from clm_ray.data.bucket import Run
from clm_ray.data.bucket_figures import Frame
from clm_ray.data.bucket_files import BucketFiles, PackedRows
from clm_ray.data.kept_buckets import Dependencies
from clm_ray.data.spans import Span, SpanPart, SpanRows

_PER_CPU, _AT_MOST = 2, 16
"""Spans on their way at a time: enough for no worker to wait, few enough for what they gave to lie in memory."""


@lru_cache(maxsize=1)
def shared_by_all(reference: ray.ObjectRef) -> tuple[Dependencies, Frame]:
    """Fetched once per process: what it remembers of each day serves the buckets and spans that come after."""
    found: tuple[Dependencies, Frame] = ray.get(reference)
    return found


def in_tasks(shared: ray.ObjectRef, files: BucketFiles) -> Run:
    """Has spans made in Ray tasks, and puts their rows into `files`."""

    def run(spans: Iterator[Span]) -> Iterator[tuple[SpanPart, SpanRows]]:
        running: deque[Any] = deque()
        some = min(_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1))), _AT_MOST)
        for span in spans:
            # In a list, the reference comes as it is.
            running.append(_span.remote([shared], span))
            if len(running) == some:
                yield taken(running.popleft())
        while running:
            yield taken(running.popleft())

    def taken(task: Any) -> tuple[SpanPart, SpanRows]:
        part, packed = ray.get(task)
        files.put(packed)
        return part, SpanRows()

    return run


@ray.remote
def _span(shared: list[Any], span: Span) -> tuple[SpanPart, PackedRows]:
    part, rows = shared_by_all(shared[0])[0].builder.span(span)
    return part, PackedRows.of(rows)
