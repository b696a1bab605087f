"""The application's arguments and the shipped Serve config files."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema
from tiny_release import write_release

from clm_ray.config.workspace import Workspace
from clm_ray.errors import ConfigError
from clm_ray.features.statistics import ItemStatistics
from clm_ray.serve.app import build_app
from clm_ray.serve.args import ROOT_VARIABLE, AppArgs, PartArgs, resolve
from clm_ray.serve.popular import popular_rows

CONFIGS = Path(__file__).parents[2] / "serve_configs"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("shop"))
    write_release(made, "r1", seed=1)
    write_release(made, "r2", seed=2)
    return made


def config(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))


def test_ray_checks_the_arguments_because_the_annotation_is_the_class_itself() -> None:
    """Ray validates only where the annotation is a class; postponed annotations would make it a string."""
    (parameter,) = inspect.signature(build_app).parameters.values()
    assert parameter.annotation is AppArgs


@pytest.mark.parametrize(
    "bad",
    [
        {"rooot": "x"},
        {"threads": "2"},
        {"threads": 0},
        {"gateway": {"replicas": 3}},
        {"ranker": {"min_replicas": 3, "max_replicas": 2}},
        {"timeouts": {"ranker_s": 0}},
        {"coalesce": {"wait_ms": 1000}},
    ],
)
def test_wrong_arguments_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AppArgs.model_validate(bad)


@pytest.mark.parametrize("name", ["local.yaml", "production.yaml"])
def test_the_shipped_config_files_are_valid_and_bounded(name: str) -> None:
    raw = config(name)
    schema = ServeDeploySchema.model_validate(raw)
    assert schema.http_options.host == "127.0.0.1"
    (app,) = schema.applications
    assert app.import_path == f"{build_app.__module__}:{build_app.__name__}"
    args = AppArgs.model_validate(app.args)
    for part in (args.gateway, args.profiler, args.ranker, args.retention):
        assert part.min_replicas >= (2 if name == "production.yaml" else 1)
        assert part.max_replicas > part.min_replicas


def test_a_local_replica_reserves_nothing_so_that_training_fits_beside_it() -> None:
    args = AppArgs.model_validate(config("local.yaml")["applications"][0]["args"])
    assert {part.num_cpus for part in (args.gateway, args.profiler, args.ranker, args.retention)} == {0}


def test_the_current_release_is_settled_when_the_app_is_built(workspace: Workspace) -> None:
    settled = resolve(AppArgs(root=str(workspace.root)))
    assert settled.release == str(workspace.releases / "r2")
    assert settled.store_url == workspace.store_url
    assert resolve(settled) == settled


@pytest.mark.parametrize("absolute", [True, False])
def test_a_release_may_be_named_by_id_or_folder(workspace: Workspace, absolute: bool) -> None:
    named = str(workspace.releases / "r1") if absolute else "r1"
    assert resolve(AppArgs(root=str(workspace.root), release=named)).release == str(workspace.releases / "r1")


def test_the_workspace_comes_from_the_environment_where_the_file_names_none(workspace: Workspace) -> None:
    assert resolve(AppArgs(), {ROOT_VARIABLE: str(workspace.root)}).root == str(workspace.root)


def test_without_a_release_there_is_a_clear_error(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="publish"):
        resolve(AppArgs(root=str(tmp_path / "empty")))
    with pytest.raises(ConfigError, match="no such release"):
        resolve(AppArgs(root=str(workspace.root), release="r9"))


def test_the_admin_token_comes_from_file_or_variable(tmp_path: Path) -> None:
    assert AppArgs().admin_token({}) is None
    assert AppArgs().admin_token({"CLM_ADMIN_TOKEN": "a"}) == "a"
    assert AppArgs(admin_token_env="OTHER").admin_token({"OTHER": "b", "CLM_ADMIN_TOKEN": "a"}) == "b"
    file = tmp_path / "token"
    file.write_text("c\n", encoding="utf-8")
    assert AppArgs(admin_token_file=str(file)).admin_token({"CLM_ADMIN_TOKEN": "a"}) == "c"
    file.write_text(" ", encoding="utf-8")
    with pytest.raises(ConfigError, match="empty"):
        AppArgs(admin_token_file=str(file)).admin_token({})
    with pytest.raises(ConfigError, match="cannot be read"):
        AppArgs(admin_token_file=str(tmp_path / "none")).admin_token({})


def test_every_default_part_is_bounded() -> None:
    assert PartArgs().max_queued_requests > 0


def test_popular_is_what_was_chosen_lately_then_ever() -> None:
    statistics = ItemStatistics.from_daily(
        np.array([1, 2, 3, 3], np.int32),
        np.array([10, 95, 10, 99], np.int32),
        np.array([9.0, 3.0, 4.0, 3.0]),
        np.array([9.0, 3.0, 4.0, 3.0]),
        np.zeros(4),
    )
    assert popular_rows(statistics, items=6).tolist() == [3, 2, 1, 4, 5]


def test_popular_without_any_statistics_is_the_catalogue() -> None:
    none = ItemStatistics.from_daily(
        np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0), np.empty(0), np.empty(0)
    )
    assert popular_rows(none, items=4).tolist() == [1, 2, 3]


def test_gateway_and_retention_load_the_application_without_torch() -> None:
    """Their replicas would be twice as large, and as slow to start."""
    seen = "import sys, clm_ray.serve.app; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
