"""What a run is of: a name that is used again goes on with the same run, and with no other.

RUN in a run's folder, written when the run begins, holds its dataset and all of its recipe that decides the trained model. Whatever the run's
own name leaves out (`Recipe.training_digest`: number of workers, threads, logging, ...) may be another when it goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clm_ray.config.recipe import Recipe
from clm_ray.data.manifest import read_manifest
from clm_ray.errors import ConfigError

RUN = "run.json"
_MOST_NAMED = 5
_NOTHING = "nothing"


def identity(recipe: Recipe, dataset: Path) -> dict[str, Any]:
    """What a run of this recipe on this dataset is of."""
    return {"dataset": read_manifest(dataset)["id"], "recipe": recipe.training_part()}


def refuse_another(run: Path, what: dict[str, Any]) -> None:
    """Raises ConfigError where the folder holds a run of another dataset or recipe, and names what differs.

    A run that was begun before there was such a file is taken for what it is asked to be.
    """
    path = run / RUN
    if not path.is_file():
        return
    differ = list(_differences(json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(what))))
    if differ:
        more = f", and {len(differ) - _MOST_NAMED} more" if len(differ) > _MOST_NAMED else ""
        raise ConfigError(
            f"holds another run: {', '.join(differ[:_MOST_NAMED])}{more}",
            field="--run",
            value=run.name,
            fix="give another name (--run), or --fresh to start over",
        )


def write_identity(run: Path, what: dict[str, Any]) -> None:
    """Write RUN, whole or not at all."""
    run.mkdir(parents=True, exist_ok=True)
    fresh = run / f".{RUN}"
    fresh.write_text(json.dumps(what, indent=1), encoding="utf-8")
    fresh.replace(run / RUN)


def _differences(there: Any, here: Any, key: str = "") -> Iterator[str]:
    """Each value that is not the same, in words. Keys of the recipe go by their own names."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in {**there, **here}:
            inner = f"{key}.{name}".removeprefix(".").removeprefix("recipe.")
            yield from _differences(there.get(name, _NOTHING), here.get(name, _NOTHING), inner)
    elif there != here:
        yield f"{key} is {_shown(there)} there and {_shown(here)} here"


def _shown(value: Any) -> str:
    text = value if value is _NOTHING else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
