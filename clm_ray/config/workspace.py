"""Folders of one workspace, and the pointers that say which dataset and which release are current.

ROOT/datasets/ID/   ROOT/datasets/CURRENT      written by prepare
ROOT/log/                                      the log as it was read and what its buckets gave, kept by prepare for the next time
ROOT/runs/NAME/                                written by train (checkpoints, best model, history)
ROOT/evaluations/NAME/                         written by evaluate
ROOT/releases/ID/   ROOT/releases/CURRENT      written by publish
ROOT/feedback/                                 written by compact
ROOT/erasures/                                 written by erase: certificates, which are tombstones too
ROOT/store.db                                  the embedded store
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from clm_ray.errors import ConfigError

POINTER = "CURRENT"
DONE = "DONE"
"""Written into a run's folder when it has finished; names its dataset."""


@dataclass(frozen=True)
class Workspace:
    """One folder that holds everything of one recipe. Made by the jobs, never at import."""

    root: Path

    @staticmethod
    def open(root: str | os.PathLike[str] | None, *, name: str) -> Workspace:
        """`root`, else $CLM_ROOT/NAME, else ./workspaces/NAME, made absolute.

        Raises ConfigError inside a submitted Ray job when the folder would lie in the job's temporary working directory.
        """
        chosen = root or (Path(base) / name if (base := os.environ.get("CLM_ROOT")) else Path("workspaces") / name)
        path = Path(chosen).expanduser()
        if not path.is_absolute():
            if "runtime_resources" in Path.cwd().parts:
                raise ConfigError(
                    "a relative workspace would be lost with the job's working directory",
                    field="--root",
                    value=str(chosen),
                    fix="give an absolute path on storage that every node reaches, or set CLM_ROOT",
                )
            path = path.resolve()
        return Workspace(root=path)

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def evaluations(self) -> Path:
        return self.root / "evaluations"

    @property
    def releases(self) -> Path:
        return self.root / "releases"

    @property
    def feedback(self) -> Path:
        return self.root / "feedback"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def erasures(self) -> Path:
        return self.root / "erasures"

    @property
    def store_url(self) -> str:
        return f"sqlite:///{self.root / 'store.db'}"

    def current(self, kind: str) -> Path:
        """The folder that ROOT/`kind`/CURRENT names. Raises ConfigError where there is none."""
        folder = self.root / kind
        pointer = folder / POINTER
        if not pointer.is_file():
            step = {"datasets": "prepare", "releases": "publish"}[kind]
            raise ConfigError(
                f"no current folder in {kind}", field="--root", value=str(self.root), fix=f"run jobs/{step}.py first"
            )
        return folder / pointer.read_text(encoding="utf-8").strip()

    def newest_run(self) -> str:
        """Name of the run that finished last. Raises ConfigError where there is none."""
        finished = sorted(self.runs.glob(f"*/{DONE}"), key=lambda path: path.stat().st_mtime)
        if not finished:
            raise ConfigError("no trained model", field="--run", value=str(self.runs), fix="run jobs/train.py first")
        return finished[-1].parent.name

    def point(self, kind: str, name: str) -> None:
        """Make `name` the current folder of `kind`, atomically."""
        folder = self.root / kind
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".{POINTER}.{os.getpid()}"
        fresh.write_text(name + "\n", encoding="utf-8")
        fresh.replace(folder / POINTER)
