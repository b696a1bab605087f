"""Quality of the model on public data, three seeds each: `python -m benchmarks.quality [--only PART ...]`.

ml100k.per_user, ml100k.global  MovieLens-100K (needs `make movielens`), beside what others reach on the same rows
ablations                       what each part of the model is worth there, per user; text also with one cut in time
data_share                      how few users suffice, with text and without
transfer                        from The Complete Journey's towers to films, and the other way round
complete_journey                the same with retention

A row is written to benchmarks/results/quality.json as soon as its seeds are done; trainings and evaluations that are finished are not
made again, so the same command goes on where it was cut off. The test is read once per configuration and seed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.compare import against_lightgbm, against_peers, click_figures, differences
from benchmarks.configurations import ABLATIONS, DATA_SHARES, FROZEN, JOURNEY, MOVIELENS, NEW_USERS, WHOLE
from benchmarks.record import figures_of, record
from clm_ray.config.recipe import Recipe, load_recipe
from clm_ray.config.workspace import DONE, Workspace
from clm_ray.train.run import git_revision

SEEDS = (0, 1, 2)
CORES = os.cpu_count() or 1
PER_USER, GLOBAL = "ml100k.per_user", "ml100k.global"


@dataclass(frozen=True)
class Data:
    """A prepared dataset: recipe, its workspace, and the overrides that made it."""

    recipe: str
    workspace: Workspace
    overrides: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the asked parts, one row after the other."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="parts (default: all)")
    options.add_argument("--root", default="workspaces/quality", help="folder for data and runs (default: %(default)s)")
    args = options.parse_args(argv)

    import ray

    from jobs.session import start_ray

    revision = git_revision()  # before this program changes a file of the checkout itself

    # Twice as many logical CPUs as cores: one run is evaluated while the next ones are trained.
    ray.init(num_cpus=2 * CORES, logging_level=logging.ERROR, log_to_driver=False)
    start_ray()
    for part in args.only:
        for path, row in PARTS[part](Path(args.root).resolve()):
            figures = figures_of("quality")
            at = figures
            for key in path[:-1]:
                at = at.setdefault(key, {})
            at[path[-1]] = row | {"git": revision, "date": time.strftime("%Y-%m-%d", time.gmtime())}
            record("quality", figures, git=revision)
            print(" / ".join(path), json.dumps({k: v for k, v in row.items() if k != "runs"}, indent=1), flush=True)


Rows = Iterator[tuple[tuple[str, ...], dict[str, Any]]]


def movielens(name: str) -> Callable[[Path], Rows]:
    """The recipe itself in one protocol, compared with the peers."""

    def rows(root: Path) -> Rows:
        runs = _runs(films(name, root), ())
        mean = _mean_of(runs)
        row = _summary(runs) | {"vs_lightgbm": against_lightgbm(name, runs[0].predictions, mean)}
        yield (name,), row | {"vs_peers": against_peers(name, row)}

    return rows


def ablations(root: Path) -> Rows:
    """Each configuration beside the recipe: figures, and paired differences over users."""
    data = films(PER_USER, root)
    yield from _compared("ablations", data, WHOLE)
    yield from _compared("ablations", films(GLOBAL, root), NEW_USERS)
    yield from _compared("ablations", data, ABLATIONS, base=FROZEN)


def data_share(root: Path) -> Rows:
    """Few users in training."""
    yield from _compared("data_share", films(PER_USER, root), DATA_SHARES)


def transfer(root: Path) -> Rows:
    """Start weights from the other recipe's first run, against start weights of chance, where users are few."""
    ratings, journey = films(PER_USER, root), _journey(root)
    for name, data, other in (("to films", ratings, journey), ("to purchases", journey, ratings)):
        start = _model_of(other)
        for share in (1, 10):
            base = (f"train.user_share={share / 100}",)
            key = f"{name}, {share} % of the users"
            plain = _runs(data, base)
            yield ("transfer", f"{key}, from chance"), _summary(plain)
            started = _runs(data, (*base, f"train.start_from={start}"))
            yield (
                ("transfer", f"{key}, from the other recipe"),
                _summary(started)
                | {"difference": differences(plain[0].predictions, _mean_of(started), _mean_of(plain))},
            )


def complete_journey(root: Path) -> Rows:
    """The same on purchases, with retention."""
    yield from _compared("complete_journey", _journey(root), JOURNEY)


PARTS: Mapping[str, Callable[[Path], Rows]] = {
    **{name: movielens(name) for name in MOVIELENS},
    "ablations": ablations,
    "data_share": data_share,
    "transfer": transfer,
    "complete_journey": complete_journey,
}


def _compared(
    part: str, data: Data, configurations: Mapping[str, tuple[str, ...]], *, base: tuple[str, ...] = ()
) -> Rows:
    """Each configuration on top of `base`, beside `base` itself."""
    asked = [base, *((*base, *overrides) for overrides in configurations.values())]
    trained = _trainings(data, asked)
    beside = next(trained)
    for (name, overrides), runs in zip(configurations.items(), trained, strict=True):
        row = {"overrides": [*base, *overrides], **_summary(runs)}
        if overrides:
            row["difference"] = differences(beside[0].predictions, _mean_of(runs), _mean_of(beside))
        yield (part, name), row


def films(name: str, root: Path) -> Data:
    """MovieLens-100K, prepared in one of its protocols."""
    return prepared("movielens_100k", root / name, (f"split.protocol={MOVIELENS[name]}",))


def _journey(root: Path) -> Data:
    return prepared("complete_journey", root / "complete_journey", ())


def prepared(name: str, root: Path, overrides: tuple[str, ...]) -> Data:
    """The dataset of a recipe with these overrides."""
    from clm_ray.data.build import build_dataset
    from clm_ray.data.log import read_log

    recipe, workspace = load_recipe(name, overrides=list(overrides)), Workspace(root)
    log = read_log(recipe, workspace=workspace, now_us=time.time_ns() // 1000)
    build_dataset(log, recipe, workspace, say=print)
    return Data(name, workspace, overrides)


@dataclass(frozen=True)
class Run:
    """What a run and its evaluation wrote; `validated`: validation metrics of the epoch that was kept."""

    metrics: dict[str, Any]
    predictions: pa.Table
    validated: dict[str, float]


def _runs(data: Data, overrides: Sequence[str]) -> list[Run]:
    """One run per seed."""
    (runs,) = _trainings(data, [overrides])
    return runs


def _trainings(data: Data, configurations: Sequence[Sequence[str]]) -> Iterator[list[Run]]:
    """One run per seed of each configuration, in this order; as many are trained at a time as the machine has cores."""
    import ray

    remote = ray.remote(num_cpus=0)(_trained)

    def trained(recipe: Recipe) -> Recipe:
        ray.get(remote.remote(recipe, data.workspace))
        return recipe

    pool = ThreadPoolExecutor(CORES)
    try:
        asked = [[recipe_for(data, (*one, f"train.seed={seed}")) for seed in SEEDS] for one in configurations]
        running = [[pool.submit(trained, recipe) for recipe in recipes] for recipes in asked]
        for seeds in running:
            yield [evaluated(data, future.result()) for future in seeds]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def run_of(data: Data, overrides: Sequence[str]) -> Run:
    """One run with its test predictions, made now or by an earlier call."""
    return evaluated(data, recipe_for(data, overrides))


def recipe_for(data: Data, overrides: Sequence[str]) -> Recipe:
    """With one worker: the same loss curve as with several, and several seeds at a time use the cores better."""
    fixed = ("evaluate.baselines=false", "train.num_workers=1")
    return load_recipe(data.recipe, overrides=[*data.overrides, *fixed, *overrides])


def _trained(recipe: Recipe, workspace: Workspace) -> Path:
    """The run, trained now or by an earlier call."""
    from clm_ray.train.run import train

    return train(recipe, workspace)


def evaluated(data: Data, recipe: Recipe) -> Run:
    """What a trained run reaches on the test rows, evaluated now or by an earlier call."""
    from clm_ray.evaluate.run import evaluate

    run = _trained(recipe, data.workspace)
    folder = data.workspace.evaluations / run.name
    found = folder / "metrics.json"
    if not found.is_file() or found.stat().st_mtime_ns < (run / DONE).stat().st_mtime_ns:
        evaluate(data.workspace, run=run.name, recipe=recipe, say=lambda _: None)
    metrics = json.loads(found.read_text(encoding="utf-8"))
    epochs = json.loads((run / "model" / "training.json").read_text(encoding="utf-8"))["epochs"]
    return Run(metrics, _in_order(pq.read_table(folder / "predictions.parquet")), epochs[-1])


def _model_of(data: Data) -> Path:
    return _trained(recipe_for(data, ("train.seed=0",)), data.workspace) / "model"


def _in_order(predictions: pa.Table) -> pa.Table:
    """Rows by time, user and item, as numbers where they are numbers."""
    keys = [predictions.column("timestamp").cast(pa.int64()).to_numpy()]
    for name in ("user", "item"):
        text = predictions.column(name).cast(pa.string())
        numbers = pc.all(pc.match_substring_regex(text, "^[0-9]+$")).as_py()
        keys.append((text.cast(pa.int64()) if numbers else text).to_numpy(zero_copy_only=False))
    return predictions.take(pa.array(np.lexsort(tuple(reversed(keys)))))


def _mean_of(runs: Sequence[Run]) -> NDArray[np.float64]:
    return np.asarray([run.predictions.column("probability").to_numpy() for run in runs], np.float64).mean(axis=0)


def _summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Means and deviations over the seeds."""
    rows = [
        click_figures(run.predictions) | _retention(run.metrics) | _numbers(run.metrics) | _further(run.validated)
        for run in runs
    ]
    summary: dict[str, Any] = {"seeds": list(SEEDS), "runs": rows}
    for key in rows[0]:
        values = np.array([row[key] for row in rows])
        summary[key], summary[f"{key}_sd"] = float(values.mean()), float(values.std(ddof=1))
    return summary


def _further(validated: dict[str, float]) -> dict[str, float]:
    return {f"valid_{name}": validated[name] for name in ("group_gap", "next_action_log_loss") if name in validated}


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """Errors of ratings and spend on the test rows, the model's and those of the guess beside it."""
    return {
        f"{head}_{method}_{figure}": float(part[figure])
        for head in ("ratings", "spend")
        for method, part in metrics[head].items()
        for figure in ("rmse", "mae", "rank")
    }


def _retention(metrics: dict[str, Any]) -> dict[str, float]:
    found = {days: metrics["retention"].get(str(days)) for days in metrics["report_days"]}
    return {
        f"retention_{days}d_{key}": float(part["model"][key])
        for days, part in found.items()
        if part is not None
        for key in ("auc", "log_loss", "ece")
    }


if __name__ == "__main__":
    main()
