"""cluster.yaml: valid for Ray's cluster launcher, and free of the traps that it says it takes care of. No cloud is asked."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from clm_ray.config.recipe import load_recipe

ROOT = Path(__file__).parent.parent
START = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """The file as the launcher reads it."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    return content


def _schema() -> dict[str, Any]:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "autoscaler" / "ray-schema.json"
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return schema


def _starts(cluster: dict[str, Any]) -> Iterator[str]:
    for name in START:
        yield from (command for command in cluster[name] if "ray start" in command)


def test_it_is_valid_for_the_cluster_launcher(cluster: dict[str, Any]) -> None:
    jsonschema.validate(cluster, _schema())


def test_an_unknown_key_would_be_found(cluster: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "workers": 2}, _schema())


def test_nodes_add_up(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] in types
    workers = [kind for name, kind in types.items() if name != cluster["head_node_type"]]
    assert sum(kind["min_workers"] for kind in workers) <= cluster["max_workers"]
    assert all(kind["min_workers"] <= kind["max_workers"] for kind in workers)


def test_every_ray_is_started_with_the_environment_and_the_token(cluster: dict[str, Any]) -> None:
    starts = list(_starts(cluster))
    assert len(starts) == len(START)
    for command in starts:
        settings, _, _ = command.partition("ray start")
        assert "PATH=$HOME/venv/bin:$PATH" in settings
        assert "RAY_AUTH_MODE=token" in settings
    assert any("/.ray/auth_token" in path for path in cluster["file_mounts"])


def test_every_node_gets_the_pinned_packages(cluster: dict[str, Any]) -> None:
    installs = [command for command in cluster["setup_commands"] if "pip install" in command]
    assert any("-c ~/clm/constraints.txt" in command and "-r ~/clm/pyproject.toml" in command for command in installs)
    mounted = {name.rpartition("/")[2]: source for name, source in cluster["file_mounts"].items()}
    for name in ("pyproject.toml", "constraints.txt"):
        assert (ROOT / mounted[name]).is_file()


def test_the_extras_it_asks_for_exist(cluster: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    words = " ".join(cluster["setup_commands"]).split()
    extras = {word for before, word in pairwise(words) if before == "--extra"}
    assert extras
    assert extras <= set(project["optional-dependencies"])


def test_the_dashboard_is_not_open_to_the_network(cluster: dict[str, Any]) -> None:
    assert all("--dashboard-host=127.0.0.1" in command for command in _starts(cluster) if "--head" in command)


def test_the_settings_it_names_exist() -> None:
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    words = text.replace("`", " ").split()
    settings = [word for before, word in pairwise(words) if before == "--set"]
    assert settings
    load_recipe("complete_journey", overrides=settings)
