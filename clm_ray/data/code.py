"""Digest of our own source text: what is kept of an earlier `prepare` counts only as long as the same code would make it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import clm_ray


@cache
def code_digest(*names: str) -> str:
    """Of modules and rooms of the package (paths below it; of a room, every module in it)."""
    return digest_of(Path(clm_ray.__file__).parent / name for name in names)


def digest_of(places: Iterable[Path]) -> str:
    """SHA-256 of the modules at `places` (files, or folders with everything below)."""
    found = hashlib.sha256()
    for place in places:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            found.update(path.read_bytes())
    return found.hexdigest()
