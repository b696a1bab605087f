"""The made world on disk, once per session."""

from __future__ import annotations

from pathlib import Path

import made_world
import pytest

from clm_ray.config.workspace import Workspace


@pytest.fixture(scope="session")
def made_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a dataset and as much of a trained run as evaluation reads beside the scorer."""
    workspace = Workspace(tmp_path_factory.mktemp("made"))
    made_world.write(workspace.datasets / "made", made=made_world.recipe())
    workspace.point("datasets", "made")
    made_world.write_model(workspace.runs / "default" / "model")
    return workspace


@pytest.fixture
def dataset_folder(made_workspace: Workspace) -> Path:
    """The made dataset."""
    return made_workspace.current("datasets")
