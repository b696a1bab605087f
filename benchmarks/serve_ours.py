"""The endpoint as it is deployed in production, on the two cores of a small machine: HAProxy in front, gRPC between the replicas, one
replica of each part (production.yaml keeps two, for updates without a gap).

    python -m benchmarks.serve_ours --root workspaces/complete_journey --port 8000

Prints `ready`, serves until its standard input ends, then takes everything down.
"""

from __future__ import annotations

import os

# Before Ray is imported: it reads them then, and its processes inherit them.
os.environ |= {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a busy machine may start HAProxy slowly
}

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from clm_ray.serve.args import AppArgs

PRODUCTION = Path(__file__).parents[1] / "serve_configs" / "production.yaml"


def production_args(*, replicas: int = 1, **changes: Any) -> AppArgs:
    """The arguments of production.yaml with one replica of each part (`replicas` of profiler, ranker and retention), which share the cores instead of
    reserving them."""
    args = yaml.safe_load(PRODUCTION.read_text(encoding="utf-8"))["applications"][0]["args"]
    for part in ("gateway", "profiler", "ranker", "retention"):
        count = 1 if part == "gateway" else replicas
        args[part] |= {"min_replicas": count, "max_replicas": count, "num_cpus": 0.0}
    # A machine with two cores has no room for the tight deadlines of a cluster: nothing may be left out of an answer that is measured.
    args["timeouts"] = {"profiler_s": 10.0, "ranker_s": 10.0, "retention_s": 10.0, "store_s": 10.0}
    return AppArgs(**(args | changes))


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until standard input ends."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", required=True)
    options.add_argument("--port", type=int, default=8000)
    options.add_argument(
        "--replicas", type=int, default=1, help="of profiler, ranker and retention (default: %(default)s)"
    )
    args = options.parse_args(argv)
    import ray

    from clm_ray.serve.deploy import deploy, stop

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        deploy(args.root, port=args.port, args=production_args(replicas=args.replicas))
        print("ready", flush=True)
        sys.stdin.read()
    finally:
        stop()
        ray.shutdown()


if __name__ == "__main__":
    main()
