"""Every benchmark writes its figures the same way: what, how, where and when."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clm_ray.train.run import git_revision

RESULTS = Path(__file__).parent / "results"
_TOLD = ("command", "git", "date")
"""What is said of each part of a file."""
_PACKAGES = ("ray", "torch", "transformers", "deepspeed", "pyarrow", "numpy")


def figures_of(name: str) -> dict[str, Any]:
    """Figures in benchmarks/results/NAME.json; none where it is not there."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["figures"] if path.is_file() else {}
    return found


def record(
    name: str,
    figures: dict[str, Any],
    *,
    merge: bool = False,
    command: str | None = None,
    git: str | None = None,
    date: str | None = None,
) -> Path:
    """Write benchmarks/results/NAME.json; with `merge`, figures of an earlier run that this one lacks stay as they are, and `parts` says of each figure
    by which command, at which revision and when it was made.

    `command`, `git`, `date`: of what was measured, where that is not this process.
    """
    path = RESULTS / f"{name}.json"
    made = {
        "command": command
        or " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *map(_told, sys.argv[1:])]),
        "git": git or git_revision(),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {package: version(package) for package in _PACKAGES},
        "date": date or time.strftime("%Y-%m-%d", time.gmtime()),
    }
    content: dict[str, Any] = {"figures": figures, **made}
    if merge:
        parts = {**_parts_of(path), **{part: {key: made[key] for key in _TOLD} for part in figures}}
        content = {"figures": {**figures_of(name), **figures}, **made, "parts": parts}
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")
    return path


def _parts_of(path: Path) -> dict[str, Any]:
    """What a file says of its parts; of figures older than that, what it says of the whole."""
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    whole = {key: content[key] for key in _TOLD}
    return {**dict.fromkeys(content["figures"], whole), **content.get("parts", {})}


def _told(argument: str) -> str:
    """An argument without what only this machine has: a path within the checkout is relative, another one its last part."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


def _processor() -> str:
    for line in (
        Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else ()
    ):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
