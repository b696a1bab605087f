"""A job submitted to a cluster with `ray job submit`, as on a real one: own head node, token, uploaded working directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ports import free_ports
from shop_loop import Shop

from jobs.cluster import environment

pytestmark = [pytest.mark.ray, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]
RAY = str(Path(sys.executable).parent / "ray")
_START_S = 120.0
_PORTS = (
    "port",
    "dashboard-port",
    "ray-client-server-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "runtime-env-agent-port",
    "node-manager-port",
    "object-manager-port",
)


@dataclass(frozen=True)
class Cluster:
    """A head node of our own and what a caller needs to reach it."""

    dashboard: str
    environment: dict[str, str]

    def submit(self, *command: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit`, waiting for the end of the job."""
        return subprocess.run(
            [RAY, "job", "submit", "--address", self.dashboard, "--working-dir", ".", "--", *command],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    caller = {**environment(), "RAY_AUTH_TOKEN": uuid.uuid4().hex + uuid.uuid4().hex}
    caller.pop("RAY_ADDRESS", None)
    # Ray's socket paths may not be long.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as temp:
        command = [
            RAY,
            "start",
            "--head",
            "--block",
            "--num-cpus=2",
            "--node-ip-address=127.0.0.1",
            f"--temp-dir={temp}",
        ]
        command += ["--dashboard-host=127.0.0.1", "--disable-usage-stats", *(f"--{n}={p}" for n, p in ports.items())]
        log = folder / "head.log"
        with log.open("w", encoding="utf-8") as out:
            head = subprocess.Popen(command, env=caller, stdout=out, stderr=out, cwd=folder, start_new_session=True)
        try:
            _wait_for(log, head)
            yield Cluster(f"http://127.0.0.1:{ports['dashboard-port']}", caller)
        finally:
            _end(head)


def _wait_for(log: Path, head: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_S
    while "Ray runtime started" not in log.read_text(encoding="utf-8"):
        assert head.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < until, log.read_text(encoding="utf-8")
        time.sleep(0.2)


def _end(head: subprocess.Popen[bytes]) -> None:
    """End the head node's process group, politely and then for good."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(head.pid, sign)
        except ProcessLookupError:
            break
        try:
            head.wait(timeout=8)
        except subprocess.TimeoutExpired:
            continue
    head.wait()


def test_prepare_runs_as_a_submitted_job(cluster: Cluster, shop_recipe: Shop, tmp_path: Path) -> None:
    shop = shop_recipe.change(root=tmp_path / "workspace")
    done = cluster.submit("python", "jobs/prepare.py", *shop.arguments())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert "data report: shop" in done.stdout
    dataset = shop.workspace.current("datasets")
    assert (dataset / "manifest.json").is_file()
    assert f"dataset {dataset.name} is current" in done.stdout


def test_a_workspace_that_would_be_lost_with_the_job_is_refused(cluster: Cluster, shop_recipe: Shop) -> None:
    done = cluster.submit("python", "jobs/prepare.py", "--recipe", str(shop_recipe.recipe_file))
    assert done.returncode != 0
    assert "error: --root: a relative workspace would be lost" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
