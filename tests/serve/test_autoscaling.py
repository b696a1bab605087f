"""Load up: replicas up. Load away: down to the minimum. With a clock of seconds."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from ports import free_ports
from tiny_release import write_release

from benchmarks.serve_scale import FAST, scaled_args, until
from clm_ray.client import Client
from clm_ray.config.workspace import Workspace
from clm_ray.serve.deploy import deploy, stop

pytestmark = [pytest.mark.ray, pytest.mark.chaos]


def test_replicas_come_with_the_load_and_go_with_it(ray_session: None, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "shop")
    write_release(workspace, "r1", seed=1)
    (port,) = free_ports(1)
    over = threading.Event()

    def ask() -> None:
        with Client(f"http://127.0.0.1:{port}", retries=10) as client:
            while not over.is_set():
                client.recommend("ann")

    deploy(workspace.root, port=port, args=scaled_args(FAST, most=2))
    callers = [threading.Thread(target=ask) for _ in range(24)]
    try:
        for caller in callers:
            caller.start()
        try:
            grown = until(lambda found: max(found.values()) > 1, within_s=120, say=lambda _s, _found: None)
        finally:
            over.set()
            for caller in callers:
                caller.join()
        assert grown == grown, "no part got a second replica under load"
        shrunk = until(lambda found: max(found.values()) == 1, within_s=120, say=lambda _s, _found: None)
        assert shrunk == shrunk, "idle parts keep more than their minimum"
    finally:
        stop()
