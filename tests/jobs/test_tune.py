"""A search for better settings on real trainings: bad trials end early, the best recipe comes back, and nothing is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
import yaml
from ray.util.state.exception import ServerUnavailable
from shop_loop import Shop

from clm_ray.config.recipe import load_recipe
from clm_ray.config.workspace import DONE
from clm_ray.errors import ConfigError, TrainError
from clm_ray.train.run import check
from clm_ray.train.tune import BEST, read_trials
from jobs import tune

pytestmark = pytest.mark.ray

REPOSITORY = Path(__file__).parents[2]
RATE = "train.learning_rate"


@dataclass(frozen=True)
class Search:
    """A shop to search on, its space file and the folder of the search."""

    shop: Shop
    space: Path
    name: str = "made"

    @property
    def folder(self) -> Path:
        return self.shop.workspace.root / "tuning" / self.name

    def arguments(self, *more: str) -> list[str]:
        return self.shop.arguments("--space", str(self.space), "--trials", "2", "--name", self.name, *more)

    def files(self) -> dict[Path, int]:
        """Every file of the trials' runs with its time."""
        return {path: path.stat().st_mtime_ns for path in sorted(self.folder.glob("runs/**/*"))}


def _space(folder: Path, choices: dict[str, list[float]]) -> Path:
    file = folder / "space.yaml"
    file.write_text(yaml.safe_dump({key: {"choice": values} for key, values in choices.items()}), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def searched(trained_shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Search:
    """Two trials, one at a time; with this seed the good one comes first."""
    folder = tmp_path_factory.mktemp("search")
    shop = trained_shop.copy(folder / "workspace").change("train.seed=0")
    search = Search(shop, _space(folder, {RATE: [1e-12, 3e-3]}))
    tune.main(search.arguments())
    return search


def test_a_trial_that_is_behind_is_stopped(searched: Search) -> None:
    good, bad = read_trials(searched.folder)
    assert (good.values, good.state, good.metrics["epoch"]) == ({RATE: 3e-3}, "finished", 2)
    assert (bad.values, bad.state, bad.metrics["epoch"]) == ({RATE: 1e-12}, "stopped", 1)
    assert good.score is not None
    assert bad.score is not None
    assert good.score == good.metrics["click_auc"] > bad.score
    told = (searched.folder / "progress.log").read_text().splitlines()
    assert [line.split(":")[1].split("  ")[0].strip() for line in told if ": epoch" in line] == [
        "epoch 1",
        "epoch 2",
        "epoch 1",
    ]


def test_the_workers_of_a_stopped_trial_are_free_again(searched: Search) -> None:
    until = time.monotonic() + 60
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < until, ray.available_resources()
        time.sleep(0.5)


def test_a_cluster_whose_dashboard_is_off_is_refused(searched: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(**_: object) -> None:
        raise ServerUnavailable("Failed to make request")

    monkeypatch.setattr("ray.util.state.list_nodes", off)
    with pytest.raises(TrainError, match="dashboard"):
        tune.main(Search(searched.shop, searched.space, "without-dashboard").arguments())


def test_the_best_recipe_can_be_trained(searched: Search) -> None:
    best = load_recipe(str(searched.folder / BEST))
    expected = searched.shop.recipe.train.model_copy(update={"learning_rate": 3e-3})
    assert best == searched.shop.recipe.model_copy(update={"train": expected})
    check(best, searched.shop.workspace.current("datasets"))
    assert not list(searched.folder.glob("runs/*/checkpoint_*/")), "only a search that goes on needs them"


def test_the_same_command_on_a_finished_search_does_nothing(
    searched: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    before = searched.files()
    tune.main(searched.arguments())
    assert searched.files() == before
    assert capsys.readouterr().out.startswith("best of 2 trials on validation: click_auc")


def test_a_search_cut_off_before_its_last_file_trains_nothing_again(searched: Search) -> None:
    before, best = searched.files(), (searched.folder / BEST).read_bytes()
    (searched.folder / BEST).unlink()
    tune.main(searched.arguments())
    assert searched.files() == before
    assert (searched.folder / BEST).read_bytes() == best


def test_a_name_stands_for_one_search(searched: Search, tmp_path: Path) -> None:
    other = Search(searched.shop, _space(tmp_path, {RATE: [1e-12, 1e-3]}))
    with pytest.raises(ConfigError, match="another search: space differ"):
        tune.main(other.arguments())
    with pytest.raises(ConfigError, match="another search: recipe, trials differ"):
        tune.main([*searched.arguments("--set", "train.epochs=9"), "--trials", "3"])


def test_a_missing_package_is_told_before_anything_starts(
    searched: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    search = Search(searched.shop, searched.space, "without")
    with pytest.raises(ConfigError, match=r"clm-ray\[tune\]"):
        tune.main(search.arguments())
    assert not search.folder.exists()


def test_a_search_without_validation_is_refused(searched: Search) -> None:
    refit = Search(searched.shop.change("split.refit=true"), searched.space, "refit")
    with pytest.raises(ConfigError, match="no validation"):
        tune.main(refit.arguments())
    assert not refit.folder.exists()


@pytest.mark.chaos
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_an_interrupted_search_goes_on_with_the_same_command(
    trained_shop: Shop, tmp_path: Path, how: signal.Signals, code: int
) -> None:
    shop = trained_shop.copy(tmp_path / "workspace").change("train.epochs=6", "train.patience=6")
    # Lines in a log change no model: no trial is behind another.
    search = Search(shop, _space(tmp_path, {"train.log_every": [5, 6]}))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, str(REPOSITORY / "jobs" / "tune.py"), *search.arguments()]
    driver = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, preexec_fn=_as_in_a_terminal
    )
    first, second = _first_done_and_second_begun(search, driver)
    done = search.folder / "runs" / first / DONE
    before = done.stat().st_mtime_ns
    driver.send_signal(how)
    assert driver.wait(timeout=120) == code
    assert not (search.folder / BEST).exists()
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, timeout=400, stdout=subprocess.DEVNULL)
    assert done.stat().st_mtime_ns == before, "the first trial is not trained again"
    assert "resumed after epoch" in (search.folder / "runs" / second / "progress.log").read_text()
    trials = {trial.name: trial for trial in read_trials(search.folder)}
    assert trials.keys() == {first, second}
    assert [trials[n].state for n in (first, second)] == ["finished", "finished"]
    assert trials[first].score == pytest.approx(trials[second].score, abs=1e-3)


def _as_in_a_terminal() -> None:
    """A shell's background jobs are deaf to Ctrl-C, and so is whatever they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _first_done_and_second_begun(search: Search, driver: subprocess.Popen[bytes]) -> tuple[str, str]:
    """Names of the trials, once the second has a checkpoint that Ray Train knows and Tune has written down that it runs."""
    while driver.poll() is None:
        time.sleep(0.2)
        done = [path.parent.name for path in search.folder.glob(f"runs/*/{DONE}")]
        known = list(search.folder.glob("runs/*/checkpoint_manager_snapshot.json"))
        begun = [path.parent.name for path in known if path.parent.name not in done]
        states = "".join(path.read_text() for path in search.folder.glob("search/experiment_state-*.json"))
        if len(done) == 1 and len(begun) == 1 and begun[0] in states:
            return done[0], begun[0]
    raise AssertionError("the search ended before it could be interrupted")
