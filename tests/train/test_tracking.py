"""Curves of a run: TensorBoard and Weights & Biases get the same points, the recipe and the revision, and a resumed run continues."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_shop import small_recipe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clm_ray.config.recipe import Recipe
from clm_ray.errors import ConfigError
from clm_ray.train.tracking import TRACKING, Tracker, check_tracking, tracking, wandb_mode

GIT = "0123abc-dirty"
Curves = dict[str, list[tuple[int, float]]]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def _recipe(*places: str) -> Recipe:
    return small_recipe(train={"tracking": list(places)})


def _first_half(tracker: Tracker) -> None:
    rates = {"network": 3e-3, "tower": 3e-5}
    tracker.steps({"click": 0.75, "retention": 1.5, "retrieval": 5.0}, rates=rates, speed=40.0, step=5)
    tracker.steps({"click": 0.5, "retention": 1.25, "retrieval": 4.5}, rates=rates, speed=42.0, step=10)
    tracker.validated({"click_auc": 0.625, "retention_auc": float("nan")}, step=10)


def _dies_in_its_second_epoch(run: Path, recipe: Recipe) -> None:
    with tracking(run, recipe=recipe, git=GIT, done=0) as tracker:
        _first_half(tracker)
        tracker.log({"train/click_loss": 99.0}, step=15)
        raise KeyError("in its second epoch")


def _tensorboard(run: Path) -> tuple[Curves, dict[str, str]]:
    """(curves, texts)."""
    events = EventAccumulator(str(run / TRACKING), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    curves = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in tags["scalars"]}
    texts = {name: events.Tensors(name)[-1].tensor_proto.string_val[0].decode() for name in tags["tensors"]}
    return curves, {name.removesuffix("/text_summary"): text for name, text in texts.items()}


def _records(file: Path) -> Iterator[bytes]:
    """The records of a .wandb file: a LevelDB log (github.com/google/leveldb, doc/log_format.md) after a header of 7 bytes."""
    raw, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(raw):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", raw[at : at + 7])
        parts += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:  # whole, or the last part
            yield parts
            parts = b""


def _wandb(file: Path) -> tuple[Curves, dict[str, Any], Any]:
    """(curves, configuration, run)."""
    from wandb.proto.wandb_internal_pb2 import Record

    curves: Curves = {}
    run: Any = None
    for raw in _records(file):
        record = Record.FromString(raw)
        if record.HasField("run"):
            run = run or record.run
        if record.HasField("history"):
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                if not name.startswith("_"):
                    curves.setdefault(name, []).append((row["_step"], value))
    return curves, {item.key: json.loads(item.value_json) for item in run.config.update}, run


def _wandb_files(run: Path) -> list[Path]:
    return sorted((run / TRACKING).glob("wandb/offline-run-*/*.wandb"))


def test_both_places_hold_the_same_curves_the_recipe_and_the_revision(tmp_path: Path) -> None:
    recipe = _recipe("tensorboard", "wandb")
    with tracking(tmp_path / "run-1", recipe=recipe, git=GIT, done=0) as tracker:
        _first_half(tracker)
    curves, texts = _tensorboard(tmp_path / "run-1")
    assert curves["train/click_loss"] == [(5, 0.75), (10, 0.5)]
    assert curves["train/windows_per_s"] == [(5, 40.0), (10, 42.0)]
    assert curves["rate/tower"] == [(5, pytest.approx(3e-5)), (10, pytest.approx(3e-5))]
    assert curves["valid/click_auc"] == [(10, 0.625)]
    assert "valid/retention_auc" not in curves, "there was nothing to measure"
    (file,) = _wandb_files(tmp_path / "run-1")
    theirs, config, run = _wandb(file)
    assert theirs == {name: [(s, pytest.approx(v)) for s, v in points] for name, points in curves.items()}
    assert texts["git"] == config["git"] == GIT
    assert yaml.safe_load(texts["recipe"].removeprefix("```yaml").removesuffix("```")) == config["recipe"]
    assert config["recipe"] == recipe.model_dump(mode="json")
    assert (run.project, run.run_id, run.display_name) == ("small", "run-1", "run-1")


def test_a_resumed_run_continues_its_curves(tmp_path: Path) -> None:
    recipe = _recipe("tensorboard", "wandb")
    with pytest.raises(KeyError, match="second epoch"):
        _dies_in_its_second_epoch(tmp_path / "run-1", recipe)
    with tracking(tmp_path / "run-1", recipe=recipe, git=GIT, done=10) as tracker:
        tracker.log({"train/click_loss": 0.25}, step=15)
        tracker.validated({"click_auc": 0.75}, step=20)
    curves, _ = _tensorboard(tmp_path / "run-1")
    assert curves["train/click_loss"] == [(5, 0.75), (10, 0.5), (15, 0.25)]
    assert curves["valid/click_auc"] == [(10, 0.625), (20, 0.75)], "validation at the checkpoint's own step stays"
    first, second = (_wandb(file) for file in _wandb_files(tmp_path / "run-1"))
    assert first[2].run_id == second[2].run_id == "run-1"
    assert second[0] == {"train/click_loss": [(15, 0.25)], "valid/click_auc": [(20, 0.75)]}


@pytest.mark.parametrize(("places", "rank"), [((), 0), (("tensorboard", "wandb"), 1)])
def test_other_ranks_and_runs_without_tracking_write_nothing(
    tmp_path: Path, places: tuple[str, ...], rank: int
) -> None:
    with tracking(tmp_path / "run-1", recipe=_recipe(*places), git=GIT, done=0, rank=rank) as tracker:
        _first_half(tracker)
    assert not (tmp_path / "run-1").exists()


def test_one_place_can_be_had_alone(tmp_path: Path) -> None:
    for places in (("tensorboard",), ("wandb",)):
        with tracking(tmp_path / places[0], recipe=_recipe(*places), git=GIT, done=0) as tracker:
            _first_half(tracker)
    assert not _wandb_files(tmp_path / "tensorboard")
    assert _wandb_files(tmp_path / "wandb")
    assert not list((tmp_path / "wandb").rglob("events.out.*"))


def test_a_missing_package_is_told_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    check_tracking(_recipe("tensorboard").train)
    with pytest.raises(ConfigError, match="not installed") as caught:
        check_tracking(_recipe("tensorboard", "wandb").train)
    assert (caught.value.field, caught.value.value) == ("train.tracking", "wandb")
    assert "pip install 'clm-ray[wandb]'" in caught.value.fix


def test_nothing_is_sent_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ConfigError, match="WANDB_MODE"):
        check_tracking(_recipe("wandb").train)


def test_where_the_curves_go_makes_no_other_run() -> None:
    assert _recipe("wandb").training_digest() == _recipe().training_digest()
    assert _recipe("wandb").digest() != _recipe().digest()
    with pytest.raises(ConfigError, match="twice"):
        _recipe("wandb", "wandb")
    with pytest.raises(ConfigError, match=r"train\.tracking"):
        _recipe("mlflow")
