"""Search for better settings: Ray Tune, Optuna's tree-structured Parzen estimator (Bergstra et al., 2011) and asynchronous successive
halving (ASHA; Li et al., 2020), which ends trials that are behind others after as many epochs.

ROOT/tuning/NAME/search.json      what is searched: dataset, recipe, space, number of trials
                /progress.log     the epochs of all trials
                /runs/TRIAL/      one training run each, as `train` makes it, and trial.json
                /search/          Ray Tune's own state, from which the same command goes on
                /trials.json      every trial: values, state, metrics; then
                /best.yaml        the recipe of the best one, written last

Every trial trains on the current dataset and is judged by `train.metric` on the validation split; test rows are never read.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.config.workspace import DONE, Workspace
from clm_ray.data.manifest import read_manifest
from clm_ray.errors import ConfigError, TrainError
from clm_ray.train.narrate import following, tell
from clm_ray.train.run import Say, check, fit
from clm_ray.train.space import Space, with_values
from clm_ray.train.validate import score_of

SEARCH = "search.json"
BEST = "best.yaml"
TRIALS = "trials.json"
_TRIAL = "trial.json"
_STATE = "search"
_REDUCTION = 2
"""ASHA: of the trials that reach a rung (1, 2, 4, ... epochs), the better half goes on."""
_LONGEST = 1 << 20
"""ASHA's rungs end here, epochs: a run ends by itself."""

_DASHBOARD_ANSWERS_S = 30


@dataclass(frozen=True)
class Trial:
    """One trial: what was tried, and how good its best epoch was. `score`: the chosen metric, larger is better; None without one.

    state: finished; stopped (ASHA found it behind); failed, with `error`.
    """

    name: str
    state: str
    values: dict[str, Any]
    score: float | None
    metrics: dict[str, float]
    error: str = ""


def tune(
    recipe: Recipe,
    workspace: Workspace,
    *,
    space: Space,
    trials: int,
    name: str | None = None,
    fresh: bool = False,
    say: Say = print,
) -> Path:
    """Search `space` around `recipe` on the current dataset; returns the search's folder, with best.yaml and trials.json in it.

    A finished search is returned as it is; an interrupted one goes on, where trials that were running resume from their last
    checkpoint; `fresh` starts over.
    Raises ConfigError, AssetError and TrainError as `train` does, before any trial; ConfigError where the folder holds another search;
    TrainError where no trial has a result, or Ray runs without its dashboard.
    """
    dataset = workspace.current("datasets")
    what = _description(recipe, dataset, space=space, trials=trials)
    folder = workspace.root / "tuning" / (name or f"{dataset.name}-{_digest(what)}")
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    _refuse_another(folder, what)
    if (folder / BEST).is_file():
        return folder
    _check(recipe, dataset, space=space)
    _check_dashboard()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SEARCH).write_text(json.dumps(what, indent=1), encoding="utf-8")
    with following(folder, say=say):
        ended = _search(recipe, dataset, folder, space=space, trials=trials)
        found = [_trial(folder / "runs" / name, recipe, failed=failed) for name, failed in ended.items()]
        for trial in found:
            if trial.state == "failed":
                tell(folder, f"trial {trial.name}: {trial.error}")
    _write_down(recipe, folder, found)
    for checkpoint in folder.glob("runs/*/checkpoint_*/"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    return folder


def read_trials(folder: Path) -> list[Trial]:
    """Trials of a finished search, the best first."""
    return [Trial(**raw) for raw in json.loads((folder / TRIALS).read_text(encoding="utf-8"))]


def run_trial(config: dict[str, Any], *, about: dict[str, Any]) -> None:
    """One trial, in an actor of Ray Tune: a training run whose epochs are reported to Tune. `config`: recipe key → value as JSON."""
    import ray.tune
    from ray.tune.integration.ray_train import TuneReportCallback

    values = {key: json.loads(value) if isinstance(value, str) else value for key, value in config.items()}
    recipe, folder = with_values(recipe_from(about["recipe"]), values), Path(about["folder"])
    # Tune hears of every checkpoint, and only those at the end of an epoch have the metric.
    recipe = with_values(recipe, {"train.checkpoint_steps": 0})
    name = ray.tune.get_context().get_trial_id()
    run = folder / "runs" / name
    run.mkdir(parents=True, exist_ok=True)
    (run / _TRIAL).write_text(json.dumps({"values": values}), encoding="utf-8")
    tell(folder, f"trial {name}: {_shown(values)}")

    callbacks = (_teller(folder, name, recipe.train.metric), TuneReportCallback())
    try:
        fit(recipe, Path(about["dataset"]), run, say=lambda _: None, callbacks=callbacks)
    except TrainError as error:
        # Not told yet: a trial that Tune is about to stop may lose its workers first, which is no failure.
        (run / _TRIAL).write_text(json.dumps({"values": values, "error": str(error)}), encoding="utf-8")
        raise


def _teller(folder: Path, name: str, metric: str) -> Any:
    """Tells every epoch before Tune hears of it: Tune may end the trial for it."""
    from ray.train import UserCallback

    class Teller(UserCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            tell(folder, f"trial {name}: epoch {metrics[0]['epoch']}  valid: {metric} {metrics[0][metric]:.4f}")

    return Teller()


def _description(recipe: Recipe, dataset: Path, *, space: Space, trials: int) -> dict[str, Any]:
    return {
        "dataset": read_manifest(dataset)["id"],
        "recipe": recipe.training_digest(),
        "space": space.to_dict(),
        "trials": trials,
    }


def _digest(what: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


def _refuse_another(folder: Path, what: dict[str, Any]) -> None:
    path = folder / SEARCH
    if not path.is_file():
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    differ = [key for key, value in what.items() if there.get(key) != value]
    if differ:
        raise ConfigError(
            f"holds another search: {', '.join(differ)} differ",
            field="--name",
            value=folder.name,
            fix="give another name, or --fresh to start over",
        )


def _check(recipe: Recipe, dataset: Path, *, space: Space) -> None:
    """What `train` refuses, for the recipe and for whatever the space makes of its encoder and engine."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            "the package optuna is not installed", field="tune", value="optuna", fix="pip install 'clm-ray[tune]'"
        )
    if recipe.split.refit:
        raise ConfigError(
            "there is no validation to compare trials by",
            field="split.refit",
            value=True,
            fix="search on a dataset prepared without it, then train the best recipe with it",
        )
    checked: set[str] = set()
    for values in ({}, *space.samples()):
        changed = with_values(recipe, values)
        fixed = changed.model.encoder.name, changed.model.use_text, changed.train.deepspeed, changed.train.zero_stage
        if (key := json.dumps(fixed, sort_keys=True)) not in checked:
            checked.add(key)
            check(changed, dataset)


def _check_dashboard() -> None:
    """Ray Train asks the dashboard whether a trial still lives before it frees the trial's workers: without, the next one would wait."""
    import ray
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    try:
        # Several clusters may be on this machine: the one that the search runs on is asked.
        list_nodes(address=ray.get_runtime_context().gcs_address, limit=1, timeout=_DASHBOARD_ANSWERS_S)
    except (RayStateApiException, OSError) as error:
        raise TrainError(
            "the dashboard of Ray does not answer, and a stopped trial's workers would never be free again",
            field="ray",
            value=str(error).splitlines()[0],
            fix="start Ray with its dashboard: `ray start --head` has it unless told otherwise",
        ) from error


def _search(recipe: Recipe, dataset: Path, folder: Path, *, space: Space, trials: int) -> dict[str, bool]:
    """Run all trials that are not done yet; of all, the name and whether Tune saw it fail (rather than stopped it)."""
    from ray import tune as ray_tune

    # Tune's newer output prints a box whatever its verbosity; and with its own handler Ctrl-C looks like the end of all trials.
    os.environ.update({"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_SIGINT_HANDLER": "1"})
    about = {"recipe": recipe.model_dump(mode="json"), "dataset": str(dataset), "folder": str(folder)}
    # A trial's work is done by the workers it starts. It may ask for no CPU of its own, which they would lack; but for something.
    trainable = ray_tune.with_resources(ray_tune.with_parameters(run_trial, about=about), {"memory": 1})
    state = str(folder / _STATE)
    if ray_tune.Tuner.can_restore(state):
        tell(folder, "the search goes on")
        tuner = ray_tune.Tuner.restore(state, trainable=trainable)
    else:
        tuner = _tuner(trainable, recipe, folder, space=space, trials=trials)
    return {Path(result.path).name: result.error is not None for result in tuner.fit()}


def _tuner(trainable: Any, recipe: Recipe, folder: Path, *, space: Space, trials: int) -> Any:
    import optuna
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return ray_tune.Tuner(
        trainable,
        param_space={c.key: _domain(c.kind, c.values) for c in space.choices},
        tune_config=ray_tune.TuneConfig(
            metric="best",
            mode="max",
            num_samples=trials,
            max_concurrent_trials=_at_once(recipe),
            search_alg=OptunaSearch(seed=recipe.train.seed),
            scheduler=ASHAScheduler(
                time_attr="epoch", max_t=_LONGEST, reduction_factor=_REDUCTION, stop_last_trials=False
            ),
            trial_dirname_creator=_folder_name,
        ),
        run_config=ray_tune.RunConfig(name=_STATE, storage_path=str(folder), verbose=0),
    )


def _domain(kind: str, values: tuple[Any, ...]) -> Any:
    from ray import tune as ray_tune

    if kind == "choice":
        # Optuna takes plain values only, and a recipe has lists too.
        return ray_tune.choice([json.dumps(value) for value in values])
    low, high = values
    if kind == "int":
        return ray_tune.randint(low, high + 1)
    return ray_tune.loguniform(low, high) if kind == "log_uniform" else ray_tune.uniform(low, high)


def _folder_name(trial: Any) -> str:
    return str(trial.trial_id)


def _at_once(recipe: Recipe) -> int:
    """As many trials at a time as the cluster has workers for."""
    import ray

    has = ray.cluster_resources().get("GPU" if recipe.train.use_gpu else "CPU", 0)
    return max(1, int(has) // recipe.train.num_workers)


def _trial(run: Path, recipe: Recipe, *, failed: bool) -> Trial:
    about = json.loads((run / _TRIAL).read_text(encoding="utf-8"))
    history = run / "model" / "training.json"
    epoch = json.loads(history.read_text(encoding="utf-8"))["epochs"][-1] if history.is_file() else {}
    metrics = {name: value for name, value in epoch.items() if not math.isnan(value)}
    score = score_of(recipe, metrics) if recipe.train.metric in metrics else None
    state = "finished" if (run / DONE).is_file() else "failed" if failed else "stopped"
    error = about.get("error", "no reason is known: see Ray's logs") if state == "failed" else ""
    return Trial(run.name, state, about["values"], score, metrics, error)


def _write_down(recipe: Recipe, folder: Path, trials: Sequence[Trial]) -> None:
    ranked = sorted(trials, key=lambda trial: -math.inf if trial.score is None else trial.score, reverse=True)
    (folder / TRIALS).write_text(json.dumps([asdict(trial) for trial in ranked], indent=1), encoding="utf-8")
    best = ranked[0]
    if best.score is None:
        raise TrainError(
            "no trial has a result",
            field=recipe.train.metric,
            value=best.error or None,
            fix="read trials.json and the trials' progress.log; train the recipe itself first",
        )
    head = (
        f"# {recipe.train.metric} {best.metrics[recipe.train.metric]:.4f} on validation, best of {len(ranked)} trials"
    )
    text = f"{head}\n# {_shown(best.values)}\n{with_values(recipe, best.values).to_yaml()}"
    fresh = folder / f".{BEST}"
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(folder / BEST)


def _shown(values: dict[str, Any]) -> str:
    return "  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={json.dumps(v)}" for k, v in values.items())
