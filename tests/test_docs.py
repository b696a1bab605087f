"""The pages name things that exist: links, scripts, modules, recipe keys, rooms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clm_ray.config.recipe import load_recipe, recipe_from

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", TEXTS[page])
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not ((ROOT / page).parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", TEXTS)
def test_scripts_and_modules_exist(page: str) -> None:
    scripts = set(re.findall(r"\bpython ((?:jobs|benchmarks)/\w+\.py)", TEXTS[page]))
    modules = set(re.findall(r"\bpython -m ((?:clm_ray|jobs|benchmarks)(?:\.\w+)+)", TEXTS[page]))
    paths = [ROOT / script for script in scripts] + [ROOT / f"{name.replace('.', '/')}.py" for name in modules]
    assert [path for path in paths if not path.is_file()] == []


@pytest.mark.parametrize("page", TEXTS)
def test_overrides_are_keys_of_a_recipe(page: str) -> None:
    for line in TEXTS[page].splitlines():
        raw = load_recipe("complete_journey").model_dump(mode="json")
        raw["source"]["events"] = {"paths": ["log/"]}  # so that keys of the kind `files` can be overridden too
        recipe_from(raw, overrides=re.findall(r"--set ([a-z_]+\.[^\s`]+=[^\s`]+)", line))


def test_the_file_map_lists_every_room() -> None:
    rooms = [path.name for path in (ROOT / "clm_ray").iterdir() if path.is_dir() and not path.name.startswith("_")]
    missing = [room for room in rooms if f"\n      {room}/ " not in TEXTS["README.md"]]
    assert not missing


def test_there_are_pages_to_check() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/design.md", "docs/operations.md"} <= set(TEXTS)
