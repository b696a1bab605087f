"""Write, verify and open a release: an immutable folder whose manifest, written last, names every file and its SHA-256.

    model files (see clm_ray.model.files)  policy.json  metrics.json  score_reference.json  stage_choices.parquet  manifest.json

What is served depends on a release, the store and the clock, on nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clm_ray.config.recipe import Recipe
from clm_ray.config.workspace import DONE, Workspace
from clm_ray.data.assets import file_digest
from clm_ray.data.manifest import ERASED, MANIFEST, read_manifest
from clm_ray.errors import ReleaseError
from clm_ray.metrics.scores import ScoreReference
from clm_ray.model.files import ModelFolder
from clm_ray.model.item_index import INDEX, ItemIndex
from clm_ray.release.scores import SCORES
from clm_ray.release.stage_choices import STAGE_CHOICES
from clm_ray.store.load import LoadedDataset, load_dataset
from clm_ray.store.store import Store

WEIGHTS_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle"}
"""Formats that can run code when they are read: never part of a release."""


@dataclass(frozen=True)
class Release:
    """A finished release: its folder, its manifest, and what the store now holds."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def id(self) -> str:
        """Name of the folder; a digest of the content."""
        return str(self.manifest["id"])


def publish(
    workspace: Workspace,
    *,
    run: Path,
    dataset: Path,
    evaluation: Path | None,
    recipe: Recipe | None = None,
    score: Callable[[], ScoreReference | None] = lambda: None,
    choices: Callable[[], pa.Table | None] = lambda: None,
) -> Release:
    """Make the model of `run` the workspace's current release. Equal content gives the same release.

    `evaluation`: the folder of its metrics, None to publish without (the manifest says so). `recipe`: where the sections policy,
    serve and store come from, None for those of the run; everything else stays as the model was trained. `score`: computes the scores
    to be expected of it, for watching their drift when it serves; `choices`: counts what users choose at each stage (`release.stage_choices`), for
    users of whom nothing else is known. Both are called once model and dataset are known to belong together.
    Raises ReleaseError: the model is incomplete, was trained on other data, or a file could run code when read.
    """
    files = ModelFolder.open(run / "model")
    data = read_manifest(dataset)
    parents = _parents(run, data)
    _refuse_code(files.folder)
    building = workspace.releases / f".building-{os.getpid()}"
    shutil.rmtree(building, ignore_errors=True)
    shutil.copytree(files.folder, building)
    served = files.recipe() if recipe is None else files.recipe().served_by(recipe)
    (building / "recipe.yaml").write_text(served.to_yaml(), encoding="utf-8")
    if len(vectors := files.item_vectors()) > served.serve.exact_items:
        ItemIndex.build(vectors, building / INDEX)
    _write(building / "policy.json", served.policy.model_dump(mode="json"))
    if (scores := score()) is not None:
        _write(building / SCORES, scores.to_dict())
    if (chosen := choices()) is not None:
        pq.write_table(chosen, building / STAGE_CHOICES)
    metrics = evaluation / "metrics.json" if evaluation is not None else None
    if metrics is not None and metrics.is_file():
        shutil.copyfile(metrics, building / "metrics.json")
    manifest = _manifest(building, parents=parents, thresholds=data["thresholds"], clock=served.serve.clock)
    folder = workspace.releases / manifest["id"]
    if _is_whole(folder):
        shutil.rmtree(building)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        _write(building / MANIFEST, manifest)
        building.rename(folder)
    release = verify(folder)
    workspace.point("releases", release.id)
    return release


def verify(folder: Path) -> Release:
    """Check every file against the manifest. Raises ReleaseError naming the first one missing, changed or not listed.

    The erasure of a user is the one change that a release allows: its manifest then has the new digest beside the old one.
    """
    manifest = _read_manifest(folder / MANIFEST)
    present = _files(folder)
    for name, digest in manifest["files"].items():
        if name not in present:
            raise ReleaseError("a file is missing", field="release", value=str(folder / name), fix="publish it again")
        if file_digest(folder / name) not in (digest, *manifest.get(ERASED, {}).get(name, ())):
            raise ReleaseError("a file was changed", field="release", value=str(folder / name), fix="publish it again")
    extra = sorted(set(present) - set(manifest["files"]))
    if extra:
        raise ReleaseError("a file is not in the manifest", field="release", value=extra[0], fix="remove it")
    return Release(folder, manifest)


def fill_store(store: Store, dataset: Path, *, clock: str, wall_us: int) -> LoadedDataset:
    """Load the dataset's histories as the store's base, and start a `log_end` clock the first time."""
    loaded = load_dataset(store, dataset)
    if clock == "log_end":
        store.set_clock_offset_once(loaded.last_event_us - wall_us)
    return loaded


def _parents(run: Path, data: dict[str, Any]) -> dict[str, Any]:
    path = run / "model" / "training.json"
    if not (run / DONE).is_file():
        raise ReleaseError("the run is not finished", field="--run", value=run.name, fix="run jobs/train.py to its end")
    if not path.is_file():
        raise ReleaseError("a file of the model is missing", field="model", value=str(path), fix="train again")
    history = json.loads(path.read_text(encoding="utf-8"))
    if history["dataset"] != data["id"]:
        raise ReleaseError(
            "the run was trained on another dataset",
            field="--run",
            value=f"{run.name} on {history['dataset']}, current is {data['id']}",
            fix="train on the current dataset",
        )
    parents = {"dataset": data["id"], "run": run.name, "recipe": data["recipe"], "git": history["git"]}
    return parents | ({"pseudonyms": data["pseudonyms"]} if data.get("pseudonyms") else {})


def _refuse_code(folder: Path) -> None:
    for name in _files(folder):
        if Path(name).suffix.lower() in WEIGHTS_SUFFIXES:
            raise ReleaseError(
                "a file could run code when read", field="release", value=name, fix="keep safetensors only"
            )


def _manifest(folder: Path, *, parents: dict[str, Any], thresholds: dict[str, Any], clock: str) -> dict[str, Any]:
    digests = {name: file_digest(folder / name) for name in _files(folder)}
    content = {"parents": parents, "thresholds": thresholds, "clock": clock, "files": digests}
    published = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"id": _id_of(content), "published": published, **content}


def _id_of(manifest: dict[str, Any]) -> str:
    """Digest of everything in a manifest that decides what is served."""
    content = {name: manifest[name] for name in ("parents", "thresholds", "clock", "files")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ReleaseError("has no manifest", field="release", value=str(path.parent), fix="run jobs/publish.py")
    try:
        manifest = dict(json.loads(path.read_text(encoding="utf-8")))
        changed = manifest["id"] != _id_of(manifest)
    except (ValueError, KeyError, TypeError):
        changed = True
    if changed:
        raise ReleaseError("a file was changed", field="release", value=str(path), fix="publish it again")
    return manifest


def _is_whole(folder: Path) -> bool:
    try:
        verify(folder)
    except ReleaseError:
        return False
    return True


def _files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
