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

from benchmarks.production import production_args


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
