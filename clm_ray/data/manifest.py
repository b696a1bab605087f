"""The manifest of a dataset: what it was made of, and the SHA-256 of every file. Written last."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from clm_ray.config.recipe import Recipe
from clm_ray.data.assets import file_digest
from clm_ray.errors import DataError

MANIFEST = "manifest.json"
ERASED = "erased"
"""Key of a manifest: file → digests that it had, or may have, since users were removed from it."""
FORMAT = 6
"""Raised when the same log and recipe would give another manifest or files with another meaning."""
_DESCRIPTIONS = ("recipe.yaml", "report.json", "report.md", "report.html", "report_figures.json")
"""Files that describe the dataset to people: other words there make no other dataset."""
BUILT_BY = ("event_types", "features", "neighbours", "sequences", "retention", "impressions", "split")
"""Sections of the recipe that a dataset depends on beside the log; another value there means another dataset."""


def write_manifest(
    folder: Path, *, recipe: Recipe, thresholds: dict[str, Any], content: dict[str, Any]
) -> dict[str, Any]:
    """Digest every file, derive the dataset's id from the digests, write manifest.json, `content` in it."""
    files = {str(p.relative_to(folder)): file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    built_by = recipe.model_dump(mode="json", include={*BUILT_BY})
    for option in ("users", "slice_days"):
        if not getattr(recipe.neighbours, option):
            del built_by["neighbours"][option]  # An option that is off makes no other dataset.
    named = {
        "format": FORMAT,
        "files": {name: d for name, d in files.items() if name not in _DESCRIPTIONS},
        "recipe": built_by,
        "thresholds": thresholds,
    }
    data_id = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:12]
    manifest = {
        "id": data_id,
        "recipe": recipe.name,
        "recipe_digest": recipe.digest(),
        "buckets": recipe.sequences.buckets,
        "thresholds": thresholds,
        **content,
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished dataset. Raises DataError where there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError("no finished dataset", field="dataset", value=str(folder), fix="run jobs/prepare.py")
    return dict(json.loads(path.read_text(encoding="utf-8")))
