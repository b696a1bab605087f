"""Real kills, on Ray: a worker in mid-epoch, and the driver with everything it started."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from shop_loop import Shop

from clm_ray.train.narrate import PROGRESS
from clm_ray.train.run import DONE, train

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

MIDDLE = "epoch 2/2 step 10/"
_DRIVER = """
import sys
import ray
from clm_ray.config.recipe import load_recipe
from clm_ray.config.workspace import Workspace
from clm_ray.train.run import train
from pathlib import Path
ray.init(address="local", num_cpus=2, include_dashboard=False)
train(load_recipe(sys.argv[1], overrides=sys.argv[3:]), Workspace(Path(sys.argv[2])), name="driver")
"""


@pytest.fixture(scope="module")
def steady(trained_shop: Shop) -> Shop:
    """Without dropout, which depends on the number of workers; a checkpoint every five steps."""
    return trained_shop.change("model.dropout=0", "model.id_dropout=0", "train.checkpoint_steps=5")


@pytest.fixture(scope="module")
def undisturbed(steady: Shop) -> Iterator[Path]:
    run = train(steady.recipe, steady.workspace, name="undisturbed")
    yield run
    shutil.rmtree(run)


def _ended_as(run: Path, undisturbed: Path) -> None:
    assert (run / DONE).is_file()
    mine, its = (json.loads((r / "model" / "training.json").read_text())["epochs"] for r in (run, undisturbed))
    assert len(mine) == len(its)
    for epoch, expected in zip(mine, its, strict=True):
        del epoch["seconds"], expected["seconds"]
        assert epoch == pytest.approx(expected, abs=1e-3, nan_ok=True)
    whole = load_file(undisturbed / "model" / "model.safetensors")
    for name, weight in load_file(run / "model" / "model.safetensors").items():
        if not name.endswith("key.bias"):  # its gradient is rounding
            torch.testing.assert_close(weight, whole[name], atol=2e-3, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def _resumed_in_the_middle(lines: list[str]) -> None:
    found = [re.fullmatch(r"resumed after step (\d+) of epoch 2", line) for line in lines]
    steps = [int(match[1]) for match in found if match]
    assert len(steps) == 1
    assert steps[0] >= 5
    assert sum(line.startswith("epoch 1/2 done") for line in lines) == 1


@dataclass
class KillInTheMiddle:
    """Listens to a run and kills one of its workers, without warning, in the middle of the second epoch."""

    lines: list[str] = field(default_factory=list)
    killed: bool = False

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if line.startswith(MIDDLE) and not self.killed:
            workers = [
                process
                for process in psutil.Process().children(recursive=True)
                if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::RayTrainWorker")
            ]
            self.killed = True
            max(workers, key=lambda process: process.pid).kill()


def test_a_worker_killed_in_mid_epoch(steady: Shop, undisturbed: Path) -> None:
    listener = KillInTheMiddle()
    run = train(steady.recipe, steady.workspace, name="worker", say=listener)
    assert listener.killed
    _resumed_in_the_middle(listener.lines)
    _ended_as(run, undisturbed)
    shutil.rmtree(run)


@pytest.mark.parametrize("stage", [1, 3])
def test_the_driver_killed_and_the_command_given_again_with_another_number_of_workers(
    steady: Shop, undisturbed: Path, stage: int
) -> None:
    shop = steady.change(f"train.zero_stage={stage}")
    run = shop.workspace.runs / "driver"
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(shop.recipe_file), str(shop.workspace.root), *shop.changes],
        env={**os.environ, "RAY_ADDRESS": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = run / PROGRESS
    while not (log.is_file() and MIDDLE in log.read_text()):
        assert driver.poll() is None, "the driver ended by itself"
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = log.read_text()
    assert "epoch 2/2 done" not in before
    one = shop.change("train.num_workers=1")
    assert one.run_folder == shop.run_folder, "the same command finds the same run"
    train(one.recipe, one.workspace, name="driver")
    lines = log.read_text().splitlines()
    _resumed_in_the_middle(lines)
    assert "converting the checkpoint of 2 workers for 1" in lines
    _ended_as(run, undisturbed)
    shutil.rmtree(run)
