"""What a person sees who gives a job something wrong: one line that names what is wrong and what to do, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from shop_loop import Shop

from jobs import compact, evaluate, prepare, publish, train
from jobs.arguments import run_main

REPOSITORY = Path(__file__).parents[2]

Told = Callable[..., str]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Told:
    """Run a job with a command line and return the one line it says about its error."""

    def run(job: Callable[[list[str] | None], None], *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"jobs/{job.__module__}.py", *arguments])
        capfd.readouterr()
        code = run_main(job)
        captured = capfd.readouterr()
        assert code == 2, captured.err
        assert "Traceback" not in captured.out + captured.err
        lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert captured.err.splitlines()[-1:] == lines, captured.err
        assert "Fix: " in lines[0]
        return lines[0]

    return run


@pytest.mark.parametrize("name", ["prepare", "train", "evaluate", "publish", "compact"])
def test_an_unknown_key_is_named_before_anything_starts(name: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(REPOSITORY / "jobs" / f"{name}.py"),
        "--root",
        str(tmp_path),
        "--set",
        "train.epoch=1",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: train.epoch: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_value_is_named_with_its_key(told: Told, shop_recipe: Shop) -> None:
    said = told(train.main, *shop_recipe.arguments("--set", "train.epochs=many"))
    assert "train.epochs" in said
    assert "'many'" in said


def test_a_recipe_that_is_not_there_names_those_that_are(told: Told) -> None:
    assert "complete_journey" in told(prepare.main, "--recipe", "somewhere/shop.yaml")


@pytest.mark.ray
@pytest.mark.parametrize(
    ("job", "first"), [(train.main, "prepare"), (evaluate.main, "prepare"), (publish.main, "prepare")]
)
def test_without_a_dataset_the_job_to_run_first_is_named(
    told: Told, ray_session: None, shop_recipe: Shop, tmp_path: Path, job: Callable[..., None], first: str
) -> None:
    assert f"jobs/{first}.py" in told(job, *shop_recipe.change(root=tmp_path).arguments())


@pytest.mark.ray
def test_without_a_run_the_job_to_run_first_is_named(told: Told, trained_shop: Shop) -> None:
    assert "jobs/train.py" in told(publish.main, *trained_shop.arguments("--run", "nothing"))
    assert "jobs/train.py" in told(evaluate.main, *trained_shop.arguments("--run", "nothing"))


@pytest.mark.ray
def test_a_run_trained_with_other_settings_is_found(
    trained_shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = trained_shop.copy(tmp_path / "workspace")
    publish.main(shop.change("train.seed=77").arguments())
    assert f"of run {trained_shop.run_folder.name} is current" in capsys.readouterr().out


def test_without_a_store_there_is_nothing_to_compact(told: Told, shop_recipe: Shop, tmp_path: Path) -> None:
    assert "no store" in told(compact.main, *shop_recipe.change(root=tmp_path).arguments())


def _shop_with_other_receipts(shop: Shop, folder: Path, table: pa.Table) -> Shop:
    """The shop's recipe with another log."""
    raw = yaml.safe_load(shop.recipe_file.read_text())
    pq.write_table(table, folder / "receipts.parquet")
    raw["source"]["events"]["paths"] = [str(folder / "receipts.parquet")]
    file = folder / "shop.yaml"
    file.write_text(yaml.safe_dump(raw))
    return Shop(file, shop.change(root=folder / "workspace").workspace)


def _receipts(shop: Shop) -> pa.Table:
    return pq.read_table(shop.recipe.source.events.paths[0])  # type: ignore[union-attr]


@pytest.mark.ray
@pytest.mark.parametrize("column", ["customer", "at", "action"])
def test_a_missing_column_is_named(
    told: Told, ray_session: None, shop_recipe: Shop, tmp_path: Path, column: str
) -> None:
    shop = _shop_with_other_receipts(shop_recipe, tmp_path, _receipts(shop_recipe).drop_columns([column]))
    said = told(prepare.main, *shop.arguments())
    assert column in said
    assert "receipts.parquet" in said
    assert not list((tmp_path / "workspace").rglob("manifest.json"))


@pytest.mark.ray
def test_an_empty_log_is_said_to_be_empty(told: Told, ray_session: None, shop_recipe: Shop, tmp_path: Path) -> None:
    shop = _shop_with_other_receipts(shop_recipe, tmp_path, _receipts(shop_recipe).slice(0, 0))
    assert "the log is empty" in told(prepare.main, *shop.arguments())


@pytest.mark.ray
def test_an_unknown_event_type_is_named(told: Told, ray_session: None, shop_recipe: Shop, tmp_path: Path) -> None:
    table = _receipts(shop_recipe)
    table = table.set_column(table.schema.get_field_index("action"), "action", pa.array(["returned"] * table.num_rows))
    shop = _shop_with_other_receipts(shop_recipe, tmp_path, table)
    assert "returned" in told(prepare.main, *shop.arguments())


@pytest.mark.ray
def test_dates_of_a_split_that_lie_outside_the_log_are_named(
    told: Told, ray_session: None, shop_recipe: Shop, tmp_path: Path
) -> None:
    shop = shop_recipe.change("split.train_end='2031-01-01'", "split.valid_end='2031-02-01'", root=tmp_path)
    said = told(prepare.main, *shop.arguments())
    assert "train_end" in said
    assert "2024-04-2" in said, "it says when the log ends"


@pytest.mark.ray
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("model.encoder.name=some-org/no-such-bert", ("some-org/no-such-bert", "local folder")),
        ("train.deepspeed.gradient_clipping=7", ("train.deepspeed.gradient_clipping", "train.clip_norm")),
        ("features.prior_strength=3", ("features", "jobs/prepare.py again")),
    ],
)
def test_what_the_workers_would_refuse_is_told_before_any_is_started(
    told: Told, trained_shop: Shop, change: str, named: tuple[str, ...]
) -> None:
    shop = trained_shop.change(change)
    said = told(train.main, *shop.arguments())
    assert all(name in said for name in named), said
    assert not shop.run_folder.exists()
