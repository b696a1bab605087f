"""The scores to be expected of a release, as it keeps them. Apart from `publish`, so that who reads them needs no torch."""

from __future__ import annotations

import json
from pathlib import Path

from clm_ray.errors import ReleaseError
from clm_ray.metrics.scores import ScoreReference

SCORES = "score_reference.json"
"""The file of a release that holds them."""


def score_reference_of(folder: Path) -> ScoreReference | None:
    """The scores to be expected of a release; None for one that was published without. Raises ReleaseError where they cannot be read."""
    path = folder / SCORES
    if not path.is_file():
        return None
    try:
        return ScoreReference.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseError(str(error), field="release", value=str(path), fix="publish it again") from error
