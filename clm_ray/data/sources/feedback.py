"""What the endpoint was asked, showed and heard, written back to the log by compaction: ROOT/feedback/."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clm_ray.config.recipe import Recipe
from clm_ray.config.source import EventsTableConfig, TableConfig
from clm_ray.config.workspace import Workspace
from clm_ray.data.sources import Reading, Source
from clm_ray.data.sources.catalogue import read_availability
from clm_ray.data.sources.files import read_events


def read_feedback(recipe: Recipe, reading: Reading, *, workspace: Workspace, first_file: int) -> Source | None:
    """The events and slates under ROOT/feedback; None when nothing was written yet, or the recipe does not want it.

    Both are in the contract's own columns; users are already known under the ids that they have here. Files are counted from `first_file`.
    """
    events = workspace.feedback / "events"
    if not recipe.source.feedback or not _has_files(events):
        return None
    source = read_events(
        EventsTableConfig(paths=(str(events),)),
        replace(reading, subjects=replace(reading.subjects, pseudonyms=None)),
        recipe=recipe,
        field="feedback.events",
        first_file=first_file,
        ours=True,
    )
    slates = workspace.feedback / "availability"
    if not _has_files(slates):
        return source
    read = read_availability(TableConfig(paths=(str(slates),)), field="feedback.availability")
    return Source(
        rows=source.rows,
        files=source.files,
        brings_ids=source.brings_ids,
        availability=read.table,
        beside={"feedback.availability": read},
        kept=source.kept,
    )


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix == ".parquet" and path.name[0] not in "._" for path in folder.rglob("*"))
