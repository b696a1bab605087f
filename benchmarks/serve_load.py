"""A closed loop of HTTP callers: each connection sends its next request when the last one was answered.

    python -m benchmarks.serve_load --port 8000 --bodies bodies.jsonl --connections 32 --seconds 10

Runs in a process of its own, so that what it costs is the same for whatever it asks. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import cast

import numpy as np
import uvloop

ROUTE = "/v1/recommend"


@dataclass
class Tally:
    """What the callers saw. latency_s: of answers within the measured time; outcomes: status code, or `degraded`. answered: of all, the time
    before the measured one included."""

    from_s: float
    until_s: float
    latency_s: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    answered: int = 0

    def add(self, sent_s: float, now_s: float, outcome: str) -> None:
        """One answer."""
        self.answered += 1
        if self.from_s <= sent_s and now_s <= self.until_s:
            self.latency_s.append(now_s - sent_s)
            self.outcomes[outcome] += 1

    def figures(self) -> dict[str, object]:
        """Requests per second and latencies of the answers that were complete."""
        good = self.outcomes["200"]
        p50, p95, p99 = np.percentile(self.latency_s, [50, 95, 99]) * 1000 if self.latency_s else [float("nan")] * 3
        seconds = self.until_s - self.from_s
        return {
            "rps": round(good / seconds, 1),
            "p50_ms": round(float(p50), 2),
            "p95_ms": round(float(p95), 2),
            "p99_ms": round(float(p99), 2),
            "outcomes": dict(self.outcomes),
            "answered": self.answered,
        }


class Caller(asyncio.Protocol):
    """One connection, kept alive."""

    def __init__(self, requests: Iterator[bytes], tally: Tally) -> None:
        self._requests = requests
        self._tally = tally
        self._received = bytearray()
        self._whole = 0
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._whole:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._whole = end + 4 + _content_length(bytes(self._received[:end]))
        if len(self._received) >= self._whole:
            self._answered()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def _answered(self) -> None:
        now = time.perf_counter()
        status = self._received[9:12].decode()
        complete = b'"degraded":[]' in self._received or b'"degraded": []' in self._received
        self._tally.add(self._sent, now, status if status != "200" or complete else "degraded")
        self._received.clear()
        self._whole = 0
        if now < self._tally.until_s:
            self._send()
        else:
            self._transport.close()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(next(self._requests))


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError(f"an answer without its length: {head!r}")


def request_of(body: bytes) -> bytes:
    """The body as an HTTP request."""
    head = (
        f"POST {ROUTE} HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def call(
    port: int, bodies: Sequence[bytes], *, connections: int, seconds: float, settle_s: float = 1.0
) -> dict[str, object]:
    """Let `connections` callers ask for `seconds`, after `settle_s` that are not counted."""
    loop = asyncio.get_running_loop()
    start = time.perf_counter() + settle_s
    tally = Tally(start, start + seconds)
    requests = [request_of(body) for body in bodies]
    callers = []
    for n in range(connections):
        begin = n * len(requests) // connections
        own = cycle(requests[begin:] + requests[:begin])
        _, caller = await loop.create_connection(partial(Caller, own, tally), "127.0.0.1", port)
        callers.append(caller)
    await asyncio.wait([caller.closed for caller in callers], timeout=settle_s + seconds + 30)
    return tally.figures()


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--bodies", type=Path, required=True, help="one JSON body a line")
    options.add_argument("--connections", type=int, default=32)
    options.add_argument("--seconds", type=float, default=10.0)
    args = options.parse_args(argv)
    bodies = args.bodies.read_bytes().splitlines()
    print(json.dumps(uvloop.run(call(args.port, bodies, connections=args.connections, seconds=args.seconds))))


if __name__ == "__main__":
    main()
