"""The certificate of an erasure: who (by hash), when, what was removed where, which models had learned. It is the tombstone too."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clm_ray.data.subjects import hash_name

_KEPT = (
    "sums over many users that name nobody: item statistics, item neighbours, weights of models, amounts of the budget"
)


@dataclass(frozen=True)
class Models:
    """Names of the runs and releases that were trained on data of certain users."""

    runs: tuple[str, ...] = ()
    releases: tuple[str, ...] = ()


def start_certificate(folder: Path, users: Sequence[str], *, models: Models, now_us: int) -> Path:
    """Write the tombstone of `users`, before anything is removed: from here on nothing of theirs before `now_us` (UTC µs) is read again."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.fromtimestamp(now_us / 1e6, UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.json"
    _write(
        path,
        {
            "users": sorted(hash_name(user) for user in users),
            "until_us": now_us,
            "started": _now(),
            "finished": None,
            "learned_from": asdict(models),
            "kept": _KEPT,
        },
    )
    return path


def finish_certificate(path: Path, *, store: Mapping[str, int], files: Mapping[str, int]) -> None:
    """Add what was removed: table of the store → rows, file → rows."""
    certificate = json.loads(path.read_text(encoding="utf-8"))
    removed = {"store": dict(store), "files": dict(files)}
    _write(path, certificate | {"removed": removed, "finished": _now()})


def _write(path: Path, certificate: dict[str, Any]) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(json.dumps(certificate, indent=1))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
