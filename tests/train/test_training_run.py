"""Training for real: two workers, DeepSpeed, a tiny BERT. What it changes, and what happens when it is cut off."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from shop_loop import Shop
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoConfig, AutoModel, AutoTokenizer

from clm_ray.errors import ConfigError, DivergenceError, TrainError
from clm_ray.features.history import EMPTY
from clm_ray.model.explain import TextModel, explain_text
from clm_ray.model.files import ModelFolder
from clm_ray.model.inference import Scorer, UserRequest
from clm_ray.model.items import ItemTable, ItemVectors
from clm_ray.model.text import TextTower, tokenize
from clm_ray.train.narrate import PROGRESS
from clm_ray.train.run import DONE, git_revision, train
from clm_ray.train.tracking import TRACKING
from jobs import prepare
from jobs import train as train_job

pytestmark = pytest.mark.ray


def _release(shop: Shop) -> Path:
    return shop.workspace.current("releases")


def _tower(release: Path, state: dict[str, torch.Tensor] | None) -> TextTower:
    """The release's text tower; without `state` with the encoder's pretrained weights."""
    config = ModelFolder.open(release).recipe().model.encoder
    encoder = AutoModel.from_config(AutoConfig.from_pretrained(release / "encoder"))
    if state is None:
        encoder = AutoModel.from_pretrained(config.name)
    tower = TextTower(encoder, trained_layers=config.trained_layers, pooling=config.pooling)
    if state is not None:
        tower.load_state_dict({n.removeprefix("tower."): t for n, t in state.items() if n.startswith("tower.")})
    return tower.eval()


def _item_vectors(release: Path, tower: TextTower) -> np.ndarray:
    """Item vectors from scratch: texts through tokenizer, tower and network."""
    opened = ModelFolder.open(release)
    vectors = ItemVectors.of(pq.read_table(release / "items.parquet"))
    assert vectors.vector_IM.shape[1] == opened.description().sizes.vector_width == 3
    items = ItemTable.build(opened.catalogue(), np.load(release / "item_slot.npy"), vectors)
    tokens = tokenize(
        items.texts,
        AutoTokenizer.from_pretrained(release / "encoder"),
        max_tokens=opened.recipe().model.encoder.max_tokens,
    )
    rows = np.arange(len(items.catalogue))
    with torch.no_grad():
        texts = tower(*tokens.padded(np.arange(len(tokens))))
        return opened.network().item_vectors(texts, items.inputs(rows, items.text_I)).numpy()


def test_training_moves_the_encoder_and_the_served_item_vectors_come_from_it(trained_shop: Shop) -> None:
    release = _release(trained_shop)
    state = load_file(release / "model.safetensors")
    trained, pretrained = _tower(release, state).state_dict(), _tower(release, None).state_dict()
    assert trained.keys() == pretrained.keys()
    for name, weight in trained.items():
        moved = float((weight - pretrained[name]).abs().max())
        if name.startswith("upper."):
            assert moved > 1e-4 or name.endswith("key.bias"), f"{name} was not trained"  # softmax ignores a key's bias
        else:
            assert moved == 0, f"{name} is frozen"
    served = np.load(release / "item_vectors.npy")
    np.testing.assert_allclose(_item_vectors(release, _tower(release, state)), served, atol=1e-4)
    assert np.abs(_item_vectors(release, _tower(release, None)) - served).max() > 1e-2


def test_a_release_can_tell_what_each_word_adds(trained_shop: Shop) -> None:
    release = _release(trained_shop)
    scorer, request = Scorer.open(release), UserRequest("c001", EMPTY, 1_706_000_000_000_000)
    told = explain_text(scorer, TextModel.open(release), request, item=3)
    (served,) = scorer.click_logits(scorer.states([request]), [np.array([3], np.int32)])
    assert told.logit == pytest.approx(float(served[0]), abs=1e-4)
    assert abs(told.error) < 0.01 * abs(told.logit - told.baseline)
    assert max(abs(token.logit) for token in told.tokens) > 1e-3


def test_an_epoch_is_accounted_for(trained_shop: Shop) -> None:
    history = json.loads((trained_shop.run_folder / "model" / "training.json").read_text())
    assert [epoch["epoch"] for epoch in history["epochs"]] == [1, 2]
    first, second = history["epochs"]
    assert second["train_click_loss"] < first["train_click_loss"]
    assert min(epoch["click_auc"] for epoch in history["epochs"]) > 0.65
    assert all(0 < epoch["train_retention_loss"] < 10 for epoch in (first, second))
    assert history["dataset"] == trained_shop.workspace.current("datasets").name
    lines = (trained_shop.run_folder / PROGRESS).read_text().splitlines()
    assert sum("step" in line for line in lines) > 10
    assert [line.split(" done")[0] for line in lines if " done in " in line] == ["epoch 1/2", "epoch 2/2"]


def test_the_curves_of_a_run_are_those_of_its_epochs(trained_shop: Shop) -> None:
    history = json.loads((trained_shop.run_folder / "model" / "training.json").read_text())
    events = EventAccumulator(str(trained_shop.run_folder / TRACKING))
    events.Reload()
    valid = events.Scalars("valid/click_auc")
    assert [point.value for point in valid] == pytest.approx([epoch["click_auc"] for epoch in history["epochs"]])
    steps = valid[0].step
    assert [point.step for point in valid] == [steps, 2 * steps]
    losses = events.Scalars("train/click_loss")
    every = trained_shop.recipe.train.log_every
    assert [p.step for p in losses] == [e * steps + s for e in (0, 1) for s in range(every, steps + 1, every)]
    assert max(point.value for point in events.Scalars("rate/network")) == pytest.approx(
        trained_shop.recipe.train.learning_rate, rel=0.05
    )
    assert events.Tensors("git/text_summary")[0].tensor_proto.string_val[0].decode() == git_revision()


def test_a_run_that_could_not_be_tracked_is_not_begun(trained_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    asked = trained_shop.change("train.tracking=[wandb]")
    with pytest.raises(ConfigError, match=r"clm-ray\[wandb\]"):
        train(asked.recipe, asked.workspace, name="untracked")
    assert not (asked.workspace.runs / "untracked").exists()


def test_the_same_command_on_a_finished_run_does_nothing(
    trained_shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(trained_shop.run_folder.rglob("*"))}
    train_job.main(trained_shop.arguments())
    assert {path: path.stat().st_mtime_ns for path in sorted(trained_shop.run_folder.rglob("*"))} == before
    assert capsys.readouterr().out.startswith(f"run {trained_shop.run_folder.name} is trained")


@dataclass
class KillOnce:
    """Listens to a run and kills one of its workers, without warning, in the middle of the second epoch."""

    run: Path
    lines: list[str] = field(default_factory=list)
    killed: bool = False

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if line.startswith("epoch 2/2 step ") and not self.killed and self._first_checkpoint_is_known():
            self.killed = True
            workers = sorted(_workers(), key=lambda process: process.pid)
            assert len(workers) == 2
            workers[-1].kill()

    def _first_checkpoint_is_known(self) -> bool:
        """Ray's controller hears of a checkpoint some time after the workers have written it."""
        snapshot = self.run / "checkpoint_manager_snapshot.json"
        return snapshot.is_file() and len(json.loads(snapshot.read_text())["checkpoint_results"]) == 1


def _workers() -> Iterator[psutil.Process]:
    """The training workers of this process's own Ray."""
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::RayTrainWorker"):
                yield process
        except psutil.NoSuchProcess:
            continue


def _assert_as_if_nothing_had_happened(run: Path, shop: Shop, heard: list[str]) -> None:
    assert "resumed after epoch 1" in heard
    assert sum(line.startswith("epoch 1/2 step 5/") for line in heard) == 1, "the first epoch is not done again"
    assert (run / DONE).is_file()
    history = json.loads((run / "model" / "training.json").read_text())
    assert [epoch["epoch"] for epoch in history["epochs"]] == [1, 2]
    whole = load_file(shop.run_folder / "model" / "model.safetensors")
    for name, weight in load_file(run / "model" / "model.safetensors").items():
        torch.testing.assert_close(weight, whole[name], atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_a_killed_worker_costs_no_more_than_its_epoch(trained_shop: Shop) -> None:
    listener = KillOnce(trained_shop.workspace.runs / "killed")
    run = train(trained_shop.recipe, trained_shop.workspace, name="killed", say=listener)
    assert listener.killed
    _assert_as_if_nothing_had_happened(run, trained_shop, listener.lines)
    shutil.rmtree(run)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_same_command(trained_shop: Shop) -> None:
    once = trained_shop.change("train.max_failures=0")
    listener = KillOnce(once.workspace.runs / "interrupted")
    with pytest.raises(TrainError, match="same command resumes"):
        train(once.recipe, once.workspace, name="interrupted", say=listener)
    assert not (once.workspace.runs / "interrupted" / DONE).exists()
    run = train(once.recipe, once.workspace, name="interrupted", say=listener)
    _assert_as_if_nothing_had_happened(run, trained_shop, listener.lines)
    shutil.rmtree(run)


def test_a_run_that_diverges_is_not_started_again_to_diverge_again(trained_shop: Shop) -> None:
    wild = trained_shop.change("train.learning_rate=1e30")
    lines: list[str] = []
    with pytest.raises(DivergenceError, match=r"not finite in epoch 1.*last good checkpoint is none"):
        train(wild.recipe, wild.workspace, name="wild", say=lines.append)
    assert sum(line.startswith("STOPPED") for line in lines) == 1
    assert sum(line.startswith("encoding") for line in lines) == 1, "no second attempt"
    assert not (wild.workspace.runs / "wild" / DONE).exists()
    shutil.rmtree(wild.workspace.runs / "wild")


@pytest.fixture(scope="module")
def shop_without_retention(ray_session: None, shop_recipe: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Trained so slowly that no epoch is better than the first; one step per epoch, and at least four."""
    off = ("retention.enabled=false", "retention.reason_off=a test")
    slow = ("train.epochs=6", "train.patience=2", "train.learning_rate=1e-12", "train.encoder_learning_rate=1e-12")
    more = ("train.windows_per_step=500", "train.min_steps=4", "train.tracking=[wandb]")
    shop = shop_recipe.change(*off, *slow, *more, root=tmp_path_factory.mktemp("no_retention"))
    return shop.run(prepare.main, train_job.main)


def test_a_log_that_supports_no_retention_claim_can_be_trained_on(shop_without_retention: Shop) -> None:
    scorer = Scorer.open(shop_without_retention.run_folder / "model")
    states = scorer.states([UserRequest("c001", EMPTY, 1_706_000_000_000_000)])
    assert scorer.survival(states, stage_B=np.zeros(len(states), np.int8)) is None
    (probability,) = scorer.click(states, [np.array([1, 2], np.int32)])
    assert ((probability > 0) & (probability < 1)).all()


def test_a_worker_can_track_with_weights_and_biases(shop_without_retention: Shop) -> None:
    (file,) = (shop_without_retention.run_folder / TRACKING).glob("wandb/offline-run-*/*.wandb")
    assert file.name == f"run-{shop_without_retention.run_folder.name}.wandb"
    assert b"valid/click_auc" in file.read_bytes()
    assert not list((shop_without_retention.run_folder / TRACKING).rglob("events.out.*"))


def test_training_stops_when_no_epoch_is_better_and_has_its_steps_and_keeps_the_best(
    shop_without_retention: Shop,
) -> None:
    lines = (shop_without_retention.run_folder / PROGRESS).read_text().splitlines()
    done = [line for line in lines if " done in " in line]
    assert [line.endswith("(best)") for line in done] == [True, False, False, False]
    history = json.loads((shop_without_retention.run_folder / "model" / "training.json").read_text())
    assert [epoch["epoch"] for epoch in history["epochs"]] == [1]
