"""The production profile of the endpoint as it is measured here: on a small machine, and without leaving anything out."""

from __future__ import annotations

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
