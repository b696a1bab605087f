"""What a release says of itself: its recipe, its manifest, its life-cycle thresholds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.errors import ReleaseError
from clm_ray.lifecycle.stages import Thresholds


def recipe_of(folder: Path) -> Recipe:
    """The recipe of a release. Raises ReleaseError when it is missing, ConfigError when it is damaged."""
    try:
        return recipe_from(yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise missing_file(error) from error


def thresholds_of(folder: Path) -> Thresholds:
    """The life-cycle thresholds of a release. Raises ReleaseError when there are none."""
    try:
        return Thresholds.from_dict(manifest_of(folder)["thresholds"])
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseError(
            "the manifest names no life-cycle thresholds", field="release", value=str(folder), fix="publish again"
        ) from error


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest of a release. Raises ReleaseError when it is missing."""
    try:
        return dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise missing_file(error) from error


def missing_file(error: FileNotFoundError) -> ReleaseError:
    """What to raise where a file of a release is not there."""
    value = str(error.filename or error)
    return ReleaseError("a file of the release is missing", field="release", value=value, fix="publish again")
