"""`prepare` killed at any moment: the dataset that was current stays whole, and the next run makes the one that an undisturbed run makes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from shop_loop import Shop, set_up_shop

from clm_ray.config.workspace import Workspace
from clm_ray.data.assets import file_digest
from clm_ray.data.manifest import MANIFEST, read_manifest

pytestmark = [pytest.mark.ray, pytest.mark.chaos]
ROOT = Path(__file__).parents[2]
KILLS = 8


def start(shop: Shop) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, str(ROOT / "jobs" / "prepare.py"), *shop.arguments()]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)


def finish(shop: Shop) -> dict[str, str]:
    """Run to the end; the digests of the dataset's files."""
    assert start(shop).wait() == 0
    files: dict[str, str] = read_manifest(shop.workspace.current("datasets"))["files"]
    return files


def check_whole(workspace: Workspace) -> None:
    """Every dataset that can be seen has all of its files as its manifest says; one of them is current."""
    seen = [path for path in workspace.datasets.iterdir() if path.is_dir() and not path.name.startswith(".")]
    assert workspace.current("datasets") in seen
    for folder in seen:
        files = read_manifest(folder)["files"]
        assert {name: file_digest(folder / name) for name in files} == files
        assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {*files, MANIFEST}


def test_a_killed_prepare_leaves_no_half_dataset_and_is_made_up_for(ray_session: None, tmp_path: Path) -> None:
    shop = set_up_shop(tmp_path / "shop", users=20, items=25, days=80)
    [log] = [Path(path) for path in shop.recipe.source.events.paths]  # type: ignore[union-attr]
    table = pq.read_table(log)
    folder = tmp_path / "log"
    folder.mkdir()
    shop = shop.change(f'source.events.paths=["{folder}"]')
    place = table.column_names.index("at")
    table = table.sort_by(table.column_names[place])
    pq.write_table(table.slice(0, len(table) - 60), folder / "first.parquet")
    began = time.monotonic()
    first = finish(shop)
    usual = time.monotonic() - began
    pq.write_table(table.slice(len(table) - 60), folder / "second.parquet")
    moments = random.Random(7)
    for _ in range(KILLS):
        process = start(shop)
        try:
            process.wait(timeout=moments.uniform(0.2, 1.0) * usual)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        check_whole(shop.workspace)
    second = finish(shop)
    check_whole(shop.workspace)
    assert second != first
    assert second == finish(shop.change(root=tmp_path / "undisturbed"))
    left = [p.name for p in shop.workspace.datasets.iterdir() if p.name.startswith(".building")]
    assert left == [], "what killed runs left is removed"
    assert not list((shop.workspace.log / "buckets").glob(".*"))
