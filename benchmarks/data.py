"""Speed and memory of the data plane: `python -m benchmarks.data [--only PART ...]`.

vs_polars_5m         user sequences of 5 million made events: seconds through a shuffle on Ray (16 partitions) by those of Polars in one process
curve                `prepare` on 1, 5, 20 and 50 million made events, each in a Ray of its own: seconds, and peak memory of everything it started
growth_5m_to_50m     time per event at 50 million by that at 5 million; growth_cpu_5m_to_50m: the same of CPU time
skew                 `prepare` on a log in which everything is uneven (benchmarks/skewed.py): memory, and the longest task of each kind beside the usual one
batches_vs_trainer   windows/s of ready batches by those that training takes, one thread each (MovieLens-100K, needs `make movielens`)

Memory is the sum over all processes of the run of what each has to itself and its share of what it has in common with others (PSS), looked at every two
seconds. CPU seconds are those of all these processes: beside other work on the machine they say more than the time on the wall. `steps` are the
seconds at which each step of `prepare` began.
Writes benchmarks/results/data.json, a part as soon as it is done.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.record import figures_of, record
from clm_ray.train.run import git_revision

SIZES = (1, 5, 20, 50)
"""Millions of events."""
HEAVY_EVENTS, ONCE_USERS = 2_000_000, 200_000
PARTITIONS = 16
OBJECT_STORE_GB = 2.0
"""Of Ray, which would take 30 % of the machine's memory."""
COLUMNS = ["user_id", "item_id", "event_type", "timestamp", "value"]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the asked parts."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="parts (default: all)")
    options.add_argument(
        "--root", default="workspaces/data", help="folder for made logs and datasets (default: %(default)s)"
    )
    options.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="millions of events of the curve")
    args = options.parse_args(argv)
    root = Path(args.root).resolve()
    revision = git_revision()  # before this program changes a file of the checkout itself
    for part in args.only:
        record("data", PARTS[part](root, tuple(args.sizes)), merge=True, git=revision)


def vs_polars(root: Path, sizes: Sequence[int]) -> dict[str, Any]:
    """Both from the same files to one list per user and column, in memory; each measured before and after the other."""
    files = sorted((_log(root, 5) / "events").glob("*.parquet"))
    script = Path(__file__).with_name("sequences.py")
    seconds: dict[str, list[float]] = {"ours": [], "polars": []}
    users = set()
    for _ in range(5):
        for name, found in seconds.items():
            # In processes of their own: Polars' threads and Ray's workers do not share one.
            done = subprocess.run(
                [sys.executable, str(script), name, str(PARTITIONS), *map(str, files)],
                capture_output=True,
                text=True,
                check=True,
                env=_environment(),
            )
            taken, distinct = done.stdout.split()[-2:]
            found.append(float(taken))
            users.add(int(distinct))
    assert len(users) == 1, "both found the same users"
    return {
        "vs_polars_5m": min(seconds["ours"]) / min(seconds["polars"]),
        "sequences_5m": {"seconds": seconds, "users": users.pop(), "partitions": PARTITIONS},
    }


def curve(root: Path, sizes: Sequence[int]) -> dict[str, Any]:
    """`prepare`, once per size, into a fresh workspace."""
    found = {str(key): value for key, value in figures_of("data").get("curve", {}).items()}
    for millions in sizes:
        folder, workspace = _log(root, millions), root / f"workspace-{millions}m"
        shutil.rmtree(workspace, ignore_errors=True)
        watched = _watched(
            [
                *(
                    sys.executable,
                    "-m",
                    "jobs.prepare",
                    "--recipe",
                    str(folder / "recipe.yaml"),
                    "--root",
                    str(workspace),
                ),
                *("--set", "split={protocol: time, train_end: 2024-10-01, valid_end: 2024-11-15}"),
                *("--set", f"sequences.buckets={max(PARTITIONS, 2 * millions)}", "--set", "neighbours.slices=0"),
            ],
            said=root / f"prepare-{millions}m.txt",
        )
        found[str(millions)] = {"events": millions * 1_000_000, **watched}
        shutil.rmtree(workspace, ignore_errors=True)
    figures: dict[str, Any] = {"curve": found, "peak_memory_gb": max(row["peak_gb"] for row in found.values())}
    if "5" in found and "50" in found:
        for name, of in (("growth_5m_to_50m", "seconds"), ("growth_cpu_5m_to_50m", "cpu_seconds")):
            figures[name] = found["50"][of] / 10 / found["5"][of]
    return figures


def skew(root: Path, sizes: Sequence[int]) -> dict[str, Any]:
    """Two million events of one user, and users of one event each."""
    script, said = Path(__file__).with_name("skewed.py"), root / "skew.txt"
    folder = root / "skewed"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, str(script), str(folder), str(HEAVY_EVENTS), str(ONCE_USERS)]
    watched = _watched(command, said=said)
    shutil.rmtree(folder)
    found = json.loads(said.read_text().splitlines()[-1])
    del watched["steps"]
    return {"skew": {"heavy_events": HEAVY_EVENTS, "once_users": ONCE_USERS, **watched, **found}}


def batches_vs_trainer(root: Path, sizes: Sequence[int]) -> dict[str, Any]:
    """An epoch of batches that nobody trains on, and an epoch of training."""
    from benchmarks import plain_torch
    from benchmarks.quality import PER_USER, films
    from clm_ray.config.recipe import load_recipe
    from jobs.session import start_ray

    start_ray()
    data = films(PER_USER, root)
    recipe = load_recipe(data.recipe, overrides=[*data.overrides, "train.num_workers=1"])
    folder = data.workspace.current("datasets")
    made, trained = [], []
    for _ in range(2):
        made.append(plain_torch.batches_per_second(recipe, folder, threads=1))
        trained.append(plain_torch.windows_per_second(recipe, folder, threads=1))
    return {
        "batches_vs_trainer": float(np.mean(made) / np.mean(trained)),
        "windows_per_s": {"batches": made, "training": trained},
    }


PARTS: Mapping[str, Callable[[Path, Sequence[int]], dict[str, Any]]] = {
    "vs_polars": vs_polars,
    "curve": curve,
    "skew": skew,
    "batches": batches_vs_trainer,
}


def _log(root: Path, millions: int) -> Path:
    """A made log of this size, made now or by an earlier call."""
    folder = root / f"log-{millions}m"
    if not (folder / "recipe.yaml").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "jobs.simulate", "--events", str(millions * 1_000_000), "--out", str(folder)]
        subprocess.run(command, check=True, env=_environment())
    return folder


def _environment() -> dict[str, str]:
    """A Ray of its own, whatever runs on this machine; its workers are as nice as what they are measured beside, not nicer. What does not fit into
    its object store is spilled to the disk."""
    share = OBJECT_STORE_GB * 1e9 / psutil.virtual_memory().total
    own = {"RAY_ADDRESS": "local", "RAY_worker_niceness": "0", "RAY_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION": str(share)}
    return {**os.environ, **own}


def _watched(command: Sequence[str], *, said: Path) -> dict[str, Any]:
    """seconds, cpu_seconds of all processes of a command, the peak of their memory in GB, and when each step that it says began."""
    began, peak, busy = time.perf_counter(), 0.0, dict[int, float]()
    with said.open("w") as output, subprocess.Popen(command, env=_environment(), stdout=output) as process:
        while process.poll() is None:
            peak = max(peak, _look(process.pid, busy))
            time.sleep(2.0)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    # Without what follows a colon: where the report lies.
    steps = {
        step: float(at) for at, step in re.findall(r"^\[ *([0-9.]+) s\] ([^:\n]*)", said.read_text(), re.MULTILINE)
    }
    taken = time.perf_counter() - began
    return {"seconds": taken, "cpu_seconds": sum(busy.values()), "peak_gb": peak, "steps": steps}


def _look(pid: int, busy: dict[int, float]) -> float:
    """PSS in GB of a process and its descendants; notes the CPU seconds of each in `busy`."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                times = process.cpu_times()
                busy[process.pid] = times.user + times.system
                rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                total += int(re.findall(r"^Pss: +([0-9]+) kB", rollup, re.MULTILINE)[0]) * 1024
    return total / 1e9


if __name__ == "__main__":
    main()
