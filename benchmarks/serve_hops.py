"""Where a request's time goes: `python -m benchmarks.serve_hops` (needs a published release, see README).

cpu_ms     CPU time per request of each piece of work, all parts in one process (benchmarks/serve_fastapi.py without its HTTP server), in batches of 1
           and of 16 requests; `cold`: of users whose history is read and encoded for the first time, `warm`: of users whose profile is cached. `rest` is what
           no line names: coalescing, checks, stages and habits of the profile, threads.
pickled    of the batches that go from part to part and their answers: bytes per request, and CPU time to write and read them
hops_ms    wall time of each part as the gateway sees it (`debug` of an answer), medians of one caller alone (c1) and of one among 31 others (c32), in the
           deployed endpoint (`ours`) and in one process (`fastapi`); `outside`: what the caller waits beyond that: HTTP, proxy, JSON

Writes benchmarks/results/serve_hops.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from ray import cloudpickle

from benchmarks.record import record
from benchmarks.serve import running, staged
from benchmarks.serve_fastapi import gateway_of
from clm_ray.config.workspace import Workspace
from clm_ray.features.spec import FeatureSource
from clm_ray.messages import Recommendation, RecommendRequest
from clm_ray.model.inference import Scorer
from clm_ray.serve import ranker, retention
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.hops import Hops
from clm_ray.store.store import Store

BATCHES = (1, 16)
ASKED, ALONE = 1600, 300
WORK: Mapping[str, Sequence[tuple[Any, str]]] = {
    "JSON": [(RecommendRequest, "model_validate_json"), (Recommendation, "model_dump_json")],
    "store, read": [(Store, name) for name in ("marks", "histories", "overlays", "decisions_of", "last_actions")],
    "store, written": [(Store, name) for name in ("book", "log_slates")],
    "user tower": [(Scorer, "states")],
    "retention head": [(Scorer, "survival")],
    "click head": [(Scorer, "click_logits")],
    "features": [(FeatureSource, "click_of"), (FeatureSource, "retention_of")],
    "slate": [(ranker, "slate")],
    "decision": [(retention, "decide"), (retention, "input_of")],
}
"""Kinds of work and the functions that do it; what one calls of another kind counts there."""


class Stopwatch:
    """CPU seconds by kind of work, each thread's for itself."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner = threading.local()

    def around(self, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, its time noted without that of noted calls within."""

        def timed(*args: Any, **options: Any) -> Any:
            outer, self._inner.seconds = getattr(self._inner, "seconds", 0.0), 0.0
            began = time.thread_time()
            try:
                return call(*args, **options)
            finally:
                taken = time.thread_time() - began
                self.seconds[kind] += taken - self._inner.seconds
                self._inner.seconds = outer + taken

        return timed

    @contextmanager
    def watching(self) -> Iterator[None]:
        """All of WORK is noted while the block runs."""
        patches = [
            patch.object(owner, name, self.around(kind, getattr(owner, name)))
            for kind, calls in WORK.items()
            for owner, name in calls
        ]
        for one in patches:
            one.start()
        try:
            yield
        finally:
            for one in patches:
                one.stop()


def cpu_table(stage: Workspace) -> tuple[dict[str, Any], dict[str, Any]]:
    """(cpu_ms, pickled)."""
    torch.set_num_threads(1)
    bodies = _first_of_each_user((stage.root / "bodies.jsonl").read_bytes().splitlines())[:ASKED]
    table: dict[str, Any] = {}
    for size in BATCHES:
        gateway = gateway_of(stage)
        for state in ("cold", "warm"):
            table[f"batches of {size}, {state}"] = asyncio.run(_asked(gateway, bodies, size=size))
    return table, asyncio.run(_pickled(stage, bodies, size=max(BATCHES)))


async def _asked(gateway: Gateway, bodies: Sequence[bytes], *, size: int) -> dict[str, float]:
    watch = Stopwatch()
    with watch.watching():
        read, began = RecommendRequest.model_validate_json, time.process_time()
        for first in range(0, len(bodies), size):
            requests = [read(body) for body in bodies[first : first + size]]
            for answer in await asyncio.gather(*map(gateway.recommend, requests)):
                answer.model_dump_json(exclude_unset=True)
        total = time.process_time() - began
    found = {kind: watch.seconds[kind] for kind in WORK} | {"rest": total - sum(watch.seconds.values()), "total": total}
    return {kind: round(1000 * seconds / len(bodies), 3) for kind, seconds in found.items()}


async def _pickled(stage: Workspace, bodies: Sequence[bytes], *, size: int) -> dict[str, Any]:
    """Of what goes from part to part in one process: what it would cost to send it."""
    sent: defaultdict[str, list[Any]] = defaultdict(list)

    def noted(part: str, hop: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def call(batch: Any) -> Any:
            answer = await hop(batch)
            sent[f"to {part}"].append(batch)
            sent[f"from {part}"].append(answer)
            return answer

        return call

    def way(hops: Hops) -> Hops:
        parts = {"profile": "profiler", "rank": "ranker", "retain": "retention"}
        ways: dict[str, Any] = {name: noted(part, getattr(hops, name)) for name, part in parts.items()}
        return replace(hops, **ways)

    gateway = gateway_of(stage, way=way)
    for first in range(0, len(bodies), size):
        requests = map(RecommendRequest.model_validate_json, bodies[first : first + size])
        await asyncio.gather(*map(gateway.recommend, requests))
    table = {}
    for name, messages in sent.items():
        began = time.process_time()
        written = [cloudpickle.dumps(message) for message in messages]
        between = time.process_time()
        for text in written:
            cloudpickle.loads(text)
        seconds = between - began, time.process_time() - between
        write_ms, read_ms = (round(1000 * s / len(bodies), 3) for s in seconds)
        table[name] = {"bytes": sum(map(len, written)) // len(bodies), "write_ms": write_ms, "read_ms": read_ms}
    return table


def hop_table(stage: Workspace, *, port: int) -> dict[str, dict[str, float]]:
    """Medians of what answers say of their way, in the endpoint and in one process."""
    table = {}
    for name in ("ours", "fastapi"):
        with running(name, stage, port=port):
            _alone(stage, port=port)
            table[f"{name}, c1"] = _alone(stage, port=port)
            command = [sys.executable, "-m", "benchmarks.serve_load", "--port", str(port), "--connections", "31"]
            command += ["--seconds", "600", "--bodies", str(stage.root / "bodies.jsonl")]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as others:
                try:
                    time.sleep(3.0)
                    table[f"{name}, c32"] = _alone(stage, port=port)
                finally:
                    others.terminate()
    return table


def _alone(stage: Workspace, *, port: int) -> dict[str, float]:
    found: defaultdict[str, list[float]] = defaultdict(list)
    for line in (stage.root / "bodies.jsonl").read_bytes().splitlines()[:ALONE]:
        body = json.dumps({**json.loads(line), "debug": True}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/recommend", data=body, headers=headers)
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=60) as answer:
            timings = json.loads(answer.read())["timings"]
        waited = 1000 * (time.perf_counter() - began)
        for part, taken in (timings | {"outside": waited - timings["total"]}).items():
            found[part].append(taken)
    return {part: round(float(np.median(taken)), 2) for part, taken in found.items()}


def _first_of_each_user(bodies: Sequence[bytes]) -> list[bytes]:
    return list({json.loads(body)["user_id"]: body for body in reversed(bodies)}.values())


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the tables down."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", default="workspaces/complete_journey", help="workspace (default: %(default)s)")
    options.add_argument("--port", type=int, default=8125)
    args = options.parse_args(argv)
    workspace = Workspace(Path(args.root).resolve())
    with tempfile.TemporaryDirectory(prefix="clm-hops-") as folder:
        cpu, pickled = cpu_table(staged(workspace, Path(folder)))
    with tempfile.TemporaryDirectory(prefix="clm-hops-") as folder:
        hops = hop_table(staged(workspace, Path(folder)), port=args.port)
    record("serve_hops", {"cpu_ms": cpu, "pickled": pickled, "hops_ms": hops})


if __name__ == "__main__":
    main()
