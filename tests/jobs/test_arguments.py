"""Jobs as a person runs them: from any folder, with clear errors."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from clm_ray.errors import ConfigError
from clm_ray.store.records import ServedSlate, StoredEvent
from clm_ray.store.store import open_store
from jobs import compact
from jobs.arguments import open_recipe, parser, run_main

REPOSITORY = Path(__file__).parents[2]


def run_job(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "jobs" / "compact.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_recipe_and_workspace_come_from_the_command_line(tmp_path: Path) -> None:
    args = parser("A job.").parse_args(
        ["--recipe", "movielens_100k", "--root", str(tmp_path), "--set", "train.epochs=7", "--set", "serve.k=3"]
    )
    recipe, workspace = open_recipe(args)
    assert (recipe.name, recipe.train.epochs, recipe.serve.k) == ("movielens_100k", 7, 3)
    assert workspace.root == tmp_path
    with pytest.raises(ConfigError, match="no such recipe"):
        open_recipe(parser("A job.").parse_args(["--recipe", "nothing"]))


def test_a_user_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_argv: Sequence[str] | None) -> None:
        raise ConfigError("over\ntwo lines", field="train.epochs", value=-1, fix="give at least 1")

    assert run_main(main) == 2
    assert capsys.readouterr().err == "error: train.epochs: over two lines (got -1). Fix: give at least 1\n"


def test_a_root_that_is_a_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    for folder in (taken, taken / "below"):
        assert run_main(lambda _argv, folder=folder: folder.mkdir()) == 2  # type: ignore[misc]
        said = capsys.readouterr().err
        assert said.startswith("error: file or folder: ")
        assert repr(str(folder)) in said
        assert said.count("\n") == 1


def test_a_folder_that_may_not_be_written_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_argv: Sequence[str] | None) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/data")

    assert run_main(main) == 2
    assert "permission denied (got '/data')" in capsys.readouterr().err


def test_an_error_of_the_system_that_names_no_file_is_a_bug() -> None:
    def main(_argv: Sequence[str] | None) -> None:
        raise PermissionError("no")

    with pytest.raises(PermissionError):
        run_main(main)


def test_a_bug_keeps_its_traceback() -> None:
    def main(_argv: Sequence[str] | None) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_main(main)


def test_a_job_runs_as_a_script_from_any_folder(tmp_path: Path) -> None:
    done = run_job("--root", str(tmp_path), folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: store.url: there is no store yet")
    assert done.stderr.count("\n") == 1
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        store.append_events([StoredEvent("1", "u", "click", 1)], received_at=1)
        store.log_slates([ServedSlate("s1", "u", 2, "r1", ("a", "b"), (0.5, 0.4))])
    done = run_job("--root", str(tmp_path), folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("1 events, 1 impressions of 2 items since the last run\n")
    assert len(list((tmp_path / "feedback" / "events").glob("part-*.parquet"))) == 1


def test_a_job_is_a_function_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_store(f"sqlite:///{tmp_path / 'elsewhere.db'}") as store:
        store.append_events([StoredEvent("1", "u", "click", 1)], received_at=1)
    url = f"store.url=sqlite:///{tmp_path / 'elsewhere.db'}"
    compact.main(["--root", str(tmp_path), "--set", url])
    compact.main(["--root", str(tmp_path), "--set", url])
    assert capsys.readouterr().out.endswith("0 events, 0 impressions of 0 items since the last run\n")
