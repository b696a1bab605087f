"""The tiny shop as a person sets it up: files, a recipe file, a workspace; and the jobs run on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from shop import FAMILIES, write_shop
from tiny_bert import write_tiny_bert

from clm_ray.config.recipe import Recipe, load_recipe
from clm_ray.config.workspace import Workspace

Job = Callable[[Sequence[str] | None], None]


@dataclass(frozen=True)
class Shop:
    """A recipe file and a workspace. `changes`: what the jobs get by --set."""

    recipe_file: Path
    workspace: Workspace
    changes: tuple[str, ...] = ()

    @property
    def recipe(self) -> Recipe:
        """The recipe as the jobs see it."""
        return load_recipe(str(self.recipe_file), overrides=self.changes)

    @property
    def run_folder(self) -> Path:
        """The run of this recipe on the current dataset."""
        from clm_ray.train.run import run_name

        return self.workspace.runs / run_name(self.recipe, self.workspace.current("datasets"))

    def arguments(self, *more: str) -> list[str]:
        """The command line of a job."""
        sets = [word for change in self.changes for word in ("--set", change)]
        return ["--recipe", str(self.recipe_file), "--root", str(self.workspace.root), *sets, *more]

    def run(self, *jobs: Job) -> Shop:
        """Run jobs in order, in this process."""
        for job in jobs:
            job(self.arguments())
        return self

    def change(self, *changes: str, root: Path | None = None) -> Shop:
        """The same shop with other settings, in the same workspace or in another."""
        workspace = self.workspace if root is None else Workspace(root)
        return Shop(self.recipe_file, workspace, (*self.changes, *changes))

    def copy(self, root: Path) -> Shop:
        """The same shop in a workspace with the same content (without checkpoints), free to be changed."""
        shutil.copytree(self.workspace.root, root, ignore=shutil.ignore_patterns("checkpoint_*"))
        return self.change(root=root)


def set_up_shop(folder: Path, **how: Any) -> Shop:
    """Write the shop's tables, a tiny BERT that knows their words, and the recipe file. `how`: see `write_shop`."""
    raw = write_shop(folder / "tables", **how)
    looks = "red plain large small old fresh double light"
    raw["model"]["encoder"]["name"] = str(write_tiny_bert(folder / "bert", [*FAMILIES, looks, ", |"]))
    # Many short steps, so that there is a middle of an epoch.
    raw["train"] |= {"num_workers": 2, "encoder_learning_rate": 1e-3, "windows_per_step": 4}
    file = folder / "shop.yaml"
    file.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return Shop(file, Workspace(folder / "workspace"))
