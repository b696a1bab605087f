"""The calibrations of a refit run: `split.refit` leaves no validation to fit any on, so they are those of the run that was judged before it.

Both are of the same recipe but for what they were trained on, and logits of the one mean nearly what those of the other mean.
"""

from __future__ import annotations

from pathlib import Path

from clm_ray.config.recipe import Recipe
from clm_ray.config.workspace import Workspace
from clm_ray.errors import ConfigError, ReleaseError
from clm_ray.model.calibration import IDENTITY, Calibration
from clm_ray.model.files import ModelFolder
from clm_ray.model.retention_calibration import UNCALIBRATED, RetentionCalibration
from clm_ray.model.stacking import ALONE, Stacking

_FIELD = "train.calibration_from"
_SAME = ("impressions", "retention", "model")
"""Sections that say what a logit means: a calibration is of no use where they differ."""


def with_judged_model(recipe: Recipe, workspace: Workspace) -> Recipe:
    """The recipe with the folder of the judged model in place of the run's name."""
    given = recipe.train.calibration_from
    if given is None:
        return recipe
    run = workspace.runs / given / "model"
    folder = run if run.is_dir() else Path(given).expanduser().absolute()
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"calibration_from": str(folder)})})


def judged_calibrations(recipe: Recipe) -> tuple[Calibration, RetentionCalibration, Stacking]:
    """Those of the judged model, as far as the recipe asks for calibration, and its stacking; none where it names no such model.

    Raises ConfigError where that is no model, one of other settings, or has no calibrations itself.
    """
    train = recipe.train
    if train.calibration_from is None:
        return IDENTITY, UNCALIBRATED, ALONE
    try:
        files = ModelFolder.open(Path(train.calibration_from).expanduser())
    except ReleaseError as error:
        raise ConfigError(
            f"no model to take calibrations from: {error.value} is missing",
            field=_FIELD,
            value=train.calibration_from,
            fix="give the name of the judged run, or its model folder",
        ) from error
    theirs = files.recipe()
    if theirs.split.refit and theirs.train.calibration_from is None:
        raise ConfigError(
            "that run had no validation split either, and no calibrations",
            field=_FIELD,
            value=train.calibration_from,
            fix="give the run that was trained without split.refit, and judged",
        )
    differ = [section for section in _SAME if getattr(theirs, section) != getattr(recipe, section)]
    if differ:
        raise ConfigError(
            f"that model was trained with other settings: {', '.join(differ)}",
            field=_FIELD,
            value=train.calibration_from,
            fix="give the run that was judged with this recipe, but for split.refit",
        )
    found = files.description()
    clicks = found.calibration if train.calibration != "none" else IDENTITY
    return (
        clicks,
        found.retention if train.retention_calibration != "none" else UNCALIBRATED,
        found.stacking if clicks == found.calibration else ALONE,  # fitted on what the calibration gives
    )


def missing_calibration(recipe: Recipe) -> str | None:
    """What is to be said of a refit run that will not be calibrated although its recipe asks for that."""
    train = recipe.train
    asked = {"train.calibration": train.calibration}
    if recipe.retention.enabled:
        asked["train.retention_calibration"] = train.retention_calibration
    wanted = [f"{key}={kind}" for key, kind in asked.items() if kind != "none"]
    wanted += ["model.factors"] if recipe.model.factors is not None else []  # whose weights are fitted on it too
    if not recipe.split.refit or train.calibration_from is not None or not wanted:
        return None
    return (
        f"nothing is calibrated: split.refit leaves no validation for {', '.join(wanted)}. Name the run that was judged before it in "
        f"{_FIELD}, and its calibrations are taken"
    )
