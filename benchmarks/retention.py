"""Who comes back within 28 days: our retention head beside recency, logistic regression and boosted trees on The Complete Journey.

    python -m benchmarks.retention [--only selection test] [--settings NAME ...]

References every 7 days of users with a purchase within the last 91 days. `selection` chooses the settings by their mean log loss on two periods:
references of the days 182 to 210 (trained up to day 154 of 2017, calibrated up to 182) and of the days 238 to 266 (210, 238), whose labels end
before day 294. `test` trains with the settings chosen on what lies before day 266 (baselines: references up to day 238, all labels known by then),
calibrates on the days up to 294, and reads the references from day 294 on once for each of three seeds. Treated users are followed through what
they are sent (retention.treatments is empty in this recipe): what was sent before a reference is an input.

Rows are written to benchmarks/results/retention.json as they are done; finished trainings and evaluations are not made again.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.configurations import RETENTION, RETENTION_BASE, RETENTION_DATA, SELECTION_PERIODS
from benchmarks.quality import SEEDS, Data, evaluated, prepared, recipe_for
from benchmarks.record import figures_of, record
from clm_ray.config.stages import STAGES
from clm_ray.evaluate.figures import MODEL, codes
from clm_ray.evaluate.returning import COLUMNS, leads
from clm_ray.metrics import calibration, click
from clm_ray.schema import DAY_US
from clm_ray.train.run import git_revision

HORIZON = 28
FIRST_DAY = 17_167
"""2017-01-01, days since 1970: day 0."""
TESTED = (294, 365)
"""Days of the references of the test."""
RESAMPLES = 200
BINS = 10
PARTS = ("selection", "test")

Floats = NDArray[np.float64]


def main(argv: Sequence[str] | None = None) -> None:
    """Choose, then test."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts (default: all)")
    options.add_argument(
        "--settings", nargs="+", choices=tuple(RETENTION), help="of the selection, beside the rows that are there"
    )
    options.add_argument(
        "--root", default="workspaces/retention", help="folder for data and runs (default: %(default)s)"
    )
    args = options.parse_args(argv)

    import ray

    from jobs.session import start_ray

    revision = git_revision()  # before this program changes a file of the checkout itself
    ray.init(num_cpus=2 * (os.cpu_count() or 1), logging_level=logging.ERROR, log_to_driver=False)
    start_ray()
    root = Path(args.root).resolve()
    if "selection" in args.only:
        _select(root, args.settings, revision)
    if "test" in args.only:
        _test(root, revision)


def _select(root: Path, settings: Sequence[str] | None, revision: str) -> None:
    """Each setting on each period; a baseline is judged once."""
    rows: dict[str, Any] = figures_of("retention").get("selection", {}) if settings else {}
    for name in settings or RETENTION:
        for period, (cuts, days) in SELECTION_PERIODS.items():
            data = prepared("complete_journey", root / period.replace(" ", "-"), (*RETENTION_DATA, *cuts))
            baselines = name == next(iter(RETENTION))
            asked = Asked.of(_predictions(data, RETENTION[name], baselines=baselines), days=days)
            for method, p_R in asked.scores.items():
                row = rows.setdefault(name if method == MODEL else method, {"periods": {}})
                row["periods"][period] = figures(asked.outcome_R, p_R)
            print(name, period, rows[name]["periods"][period], flush=True)
        for row in rows.values():
            row |= _mean(list(row["periods"].values()))
        best = min((one for one in RETENTION if one in rows), key=lambda one: rows[one]["log_loss"])
        record("retention", {"selection": rows, "chosen": best}, merge=True, git=revision)


def _test(root: Path, revision: str) -> None:
    chosen = figures_of("retention")["chosen"]
    data = prepared("complete_journey", root / "test", RETENTION_DATA)
    seeds = []
    for seed in SEEDS:
        overrides = (*RETENTION[chosen], f"train.seed={seed}")
        seeds.append(Asked.of(_predictions(data, overrides, baselines=seed == SEEDS[0]), days=TESTED))
        print(f"seed {seed}", figures(seeds[-1].outcome_R, seeds[-1].scores[MODEL]), flush=True)
    record("retention", summary(seeds) | {"seeds": list(SEEDS)}, merge=True, git=revision)


def _predictions(data: Data, overrides: Sequence[str], *, baselines: bool) -> pa.Table:
    """Retention predictions of the test split of a run, which is trained now or was trained by an earlier call."""
    asked = (*RETENTION_BASE, *overrides, f"evaluate.baselines={str(baselines).lower()}")
    recipe = recipe_for(data, asked)
    evaluated(data, recipe)
    from clm_ray.train.run import train

    run = train(recipe, data.workspace)
    return pq.read_table(data.workspace.evaluations / run.name / "retention_predictions.parquet")


@dataclass(frozen=True)
class Asked:
    """References in the order of user and time: what happened, and what each method said."""

    outcome_R: Floats
    user_R: NDArray[np.int64]
    stage_R: NDArray[np.object_]
    scores: Mapping[str, Floats]

    @staticmethod
    def of(predictions: pa.Table, *, days: tuple[int, int]) -> Asked:
        """The references of the days `days`, both included, whose horizon is covered."""
        day = pc.floor(pc.divide(predictions.column("timestamp").cast(pa.int64()), DAY_US))
        wanted = pc.and_(
            pc.and_(pc.greater_equal(day, FIRST_DAY + days[0]), pc.less_equal(day, FIRST_DAY + days[1])),
            pc.and_(pc.equal(predictions.column("horizon_days"), HORIZON), pc.invert(predictions.column("censored"))),
        )
        rows = predictions.filter(wanted).sort_by([("user", "ascending"), ("timestamp", "ascending")])
        return Asked(
            rows.column("outcome").to_numpy().astype(np.float64),
            codes(rows.column("user")),
            np.asarray(rows.column("stage").to_pylist(), object),
            {
                method: rows.column(column).to_numpy().astype(np.float64)
                for method, column in COLUMNS.items()
                if column in rows.column_names
            },
        )


def figures(outcome_R: Floats, p_R: Floats, weight_R: Floats | None = None) -> dict[str, float]:
    """Of one method's probabilities."""
    return {
        "auc": click.auc(outcome_R, score=p_R, weight=weight_R),
        "average_precision": click.average_precision(outcome_R, score=p_R, weight=weight_R),
        "log_loss": click.log_loss(outcome_R, probability=p_R, weight=weight_R),
        "brier": click.brier(outcome_R, probability=p_R, weight=weight_R),
        "slope": calibration.recalibration(outcome_R, probability=p_R, weight=weight_R).slope,
        "ece": calibration.ece(outcome_R, probability=p_R, weight=weight_R, bins=BINS),
    }


def summary(seeds: Sequence[Asked]) -> dict[str, Any]:
    """Figures of each method over all and by stage; ours are means over the seeds. `lead`: ours less each baseline, mean over the seeds of the
    difference, with the outermost bounds of the seeds' intervals."""
    first = seeds[0]
    masks = {"all": np.ones(len(first.outcome_R), bool)}
    masks |= {stage: first.stage_R == stage for stage in STAGES if (first.stage_R == stage).any()}
    methods: dict[str, Any] = {}
    for name in first.scores:
        runs = [one.scores[name] for one in (seeds if name == MODEL else seeds[:1])]
        methods[name] = {where: _row(first, runs, mask) for where, mask in masks.items()}
    found = [
        leads(one.outcome_R, {**first.scores, MODEL: one.scores[MODEL]}, user_R=one.user_R, seed=n)
        for n, one in enumerate(seeds)
    ]
    lead = {
        name: {kind: _outermost([asdict(getattr(one[name], kind)) for one in found]) for kind in ("auc", "brier")}
        for name in found[0]
    }
    return {"methods": methods, "lead": lead}


def _row(asked: Asked, runs: Sequence[Floats], mask_R: NDArray[np.bool_]) -> dict[str, Any]:
    """Means over the runs, each figure with the 95 % interval of a bootstrap over users (of the runs' mean figure)."""
    outcome_R, user_R = asked.outcome_R[mask_R], np.unique(asked.user_R[mask_R], return_inverse=True)[1]
    scores = [p_R[mask_R] for p_R in runs]
    users = int(user_R.max(initial=-1)) + 1
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        weight_R = np.bincount(random.integers(0, users, users), minlength=users)[user_R].astype(np.float64)
        drawn.append(_mean([figures(outcome_R, p_R, weight_R) for p_R in scores]))
    each = [figures(outcome_R, p_R) for p_R in scores]
    row: dict[str, Any] = {"rows": len(outcome_R), "users": users, "active": float(outcome_R.mean())}
    for name, value in _mean(each).items():
        sampled = np.array([one[name] for one in drawn])
        usable = sampled[np.isfinite(sampled)]
        bounds = np.quantile(usable, [0.025, 0.975]).tolist() if len(usable) else [None, None]
        row[name] = {"value": value, "low": bounds[0], "high": bounds[1]}
    return row | ({"runs": each} if len(runs) > 1 else {})


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _outermost(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {
        "estimate": float(np.mean([row["estimate"] for row in rows])),
        "low": min(row["low"] for row in rows),
        "high": max(row["high"] for row in rows),
        "users": int(rows[0]["users"]),
    }


if __name__ == "__main__":
    main()
