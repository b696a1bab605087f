"""Autoscaling shown: load up, replicas up; load away, down to the minimum. `python -m benchmarks.serve_scale` (needs a published release).

Profiler and ranker may have one to three replicas, with the delays of `--fast` or those of serve_configs/local.yaml. Writes the replicas of each part over
time, and how long up and down took, into benchmarks/results/serve_scale.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import record
from benchmarks.serve import staged
from clm_ray.config.workspace import Workspace
from clm_ray.serve.args import AppArgs, PartArgs, ScalingArgs

SCALED = ("Profiler", "Ranker")
FAST = ScalingArgs(upscale_delay_s=1.0, downscale_delay_s=4.0, look_back_period_s=2.0)


def scaled_args(scaling: ScalingArgs, *, most: int = 3) -> AppArgs:
    """One gateway and one retention replica; profiler and ranker between one and `most`, one more for each call in flight beyond the first."""
    one = PartArgs(max_replicas=1)
    part = PartArgs(max_replicas=most, target_ongoing_requests=1.0)
    gateway = PartArgs(max_replicas=1, max_ongoing_requests=256, max_queued_requests=512)
    return AppArgs(gateway=gateway, profiler=part, ranker=part, retention=one, scaling=scaling)


def replicas() -> dict[str, int]:
    """Running replicas of each part."""
    from ray import serve

    found = serve.status().applications["clm_ray"].deployments
    return {name: found[name].replica_states.get("RUNNING", 0) for name in SCALED}


def until(
    reached: Callable[[Mapping[str, int]], bool],
    *,
    within_s: float,
    say: Callable[[float, dict[str, int]], None],
    look: Callable[[], dict[str, int]] = replicas,
) -> float:
    """Seconds until `reached`; NaN where it is not within the time. `say` is told of every change."""
    start = time.monotonic()
    last: dict[str, int] = {}
    while (now := time.monotonic() - start) < within_s:
        found = look()
        if found != last:
            say(now, found)
            last = found
        if reached(found):
            return now
        time.sleep(0.2)
    return float("nan")


def main(argv: Sequence[str] | None = None) -> None:
    """Load up, load away."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", default="workspaces/complete_journey", help="workspace (default: %(default)s)")
    options.add_argument("--port", type=int, default=8124)
    options.add_argument("--fast", action="store_true", help="delays of seconds instead of a minute")
    args = options.parse_args(argv)
    import ray

    from clm_ray.serve.deploy import deploy, stop

    scaling = FAST if args.fast else ScalingArgs()
    with tempfile.TemporaryDirectory(prefix="clm-scale-") as folder:
        stage = staged(Workspace(Path(args.root).resolve()), Path(folder))
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            deploy(stage.root, port=args.port, args=scaled_args(scaling))
            record("serve_scale", shown(stage, port=args.port, scaling=scaling))
        finally:
            stop()
            ray.shutdown()


def shown(stage: Workspace, *, port: int, scaling: ScalingArgs) -> dict[str, Any]:
    """The timeline, and the seconds up and down."""
    timeline: list[dict[str, Any]] = []
    began = time.monotonic()

    def say(_: float, found: dict[str, int]) -> None:
        timeline.append({"s": round(time.monotonic() - began, 1), **found})
        print(timeline[-1], flush=True)

    command = [sys.executable, "-m", "benchmarks.serve_load", "--port", str(port), "--connections", "64"]
    command += ["--seconds", "600", "--bodies", str(stage.root / "bodies.jsonl")]
    callers = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        up = until(lambda found: min(found.values()) > 1, within_s=180, say=say)
    finally:
        callers.terminate()
        callers.wait()
    down = until(lambda found: max(found.values()) == 1, within_s=300, say=say)
    delays = {name: getattr(scaling, name) for name in ("upscale_delay_s", "downscale_delay_s", "look_back_period_s")}
    return {"up_s": round(up, 1), "down_s": round(down, 1), "timeline": timeline, **delays}


if __name__ == "__main__":
    main()
