"""`evaluate`: score the untouched test split of a dataset with a trained run, compare with baselines, write the report.

evaluations/NAME/
  metrics.json  report.md  reliability.png  roc.png  retrieval.png  learning_curve.png  retention.png
  predictions.parquet            every shown candidate: split, user, item, timestamp, label, weight, probability, baselines, slices
  catalogue_predictions.parquet  whole-catalogue lists by method, and where the taken items stand; probability (of ALS and the kNNs: a score)
  retention_predictions.parquet  every reference at every horizon: user, timestamp, horizon_days, outcome, censored, probability
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.config.workspace import Workspace
from clm_ray.errors import ConfigError, DataError
from clm_ray.evaluate import boosting, plots
from clm_ray.evaluate.baselines import Baselines, fit_baselines
from clm_ray.evaluate.dataset import Dataset
from clm_ray.evaluate.figures import (
    CLICK_BASELINES,
    MODEL,
    catalogue_report,
    click_report,
    codes,
    plain,
)
from clm_ray.evaluate.outputs import RATINGS, number_report
from clm_ray.evaluate.report import Evaluation, main_table, markdown, shortfalls
from clm_ray.evaluate.retrieval import FOLDER as RETRIEVAL
from clm_ray.evaluate.retrieval import fit_retrieval
from clm_ray.evaluate.returning import RETENTION_BASELINES, return_report
from clm_ray.evaluate.sampling import draw_sample, frozen_texts
from clm_ray.evaluate.scoring import PARTS, OpenScorer, ScoringPlan, score_test
from clm_ray.evaluate.spending import spend_report
from clm_ray.evaluate.text_baseline import VECTORS
from clm_ray.model.inference import Scorer
from clm_ray.schema import SPLITS, TEST, TRAIN, VALID

FILES = dict(
    zip(PARTS, ("predictions.parquet", "catalogue_predictions.parquet", "retention_predictions.parquet"), strict=True)
)
_ROW_GROUP = 1 << 18
_SEED = 0
UNTREATED = (
    "Retention figures, of the model and of every baseline, are about users who were not treated within the horizon ({treatments}): a "
    "reference is followed only up to the next treatment. Where whom to treat was chosen by how likely they were to leave, these users are "
    "no fair sample of all."
)
"""What a report says where the recipe names treatments. The censoring is informative, and is not corrected by weights."""

Say = Callable[[str], None]


def evaluate(
    workspace: Workspace,
    *,
    run: str,
    recipe: Recipe,
    say: Say = print,
    open_scorer: OpenScorer = Scorer.open,
) -> Evaluation:
    """Evaluate `run` on the dataset that it was trained on; needs a running Ray. Prints the table through `say`.

    Of `recipe` only the section `evaluate`, and the groups that `policy.fairness` compares, are used; data and model keep the recipe they
    were made with.
    Raises ConfigError where dataset or run are missing or do not belong together, DataError where the test split is empty.
    """
    dataset, model = _open(workspace, run=run)
    folder = workspace.evaluations / run
    parts = folder / ".parts"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    try:
        baselines, notes = _baselines(dataset, model=model, parts=parts, recipe=recipe, say=say)
        plan = ScoringPlan(dataset.folder, model, parts, recipe.evaluate, baselines, open_scorer)
        score_test(plan, buckets=dataset.buckets, say=say)
        tables = {name: _collect(name, parts, folder, dataset) for name in PARTS}
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    if all(table is None for table in tables.values()):
        raise DataError(
            "the test split is empty", field="split", value=dataset.folder.name, fix="prepare with split.refit=false"
        )
    say("computing the figures")
    found = _figures(tables, dataset=dataset, model=model, run=run, recipe=recipe, notes=notes)
    _draw(folder, tables, dataset=dataset, model=model, bins=recipe.evaluate.calibration_bins)
    if found.catalogue:
        plots.retrieval(folder / "retrieval.png", lists=found.catalogue)
    (folder / "metrics.json").write_text(json.dumps(plain(found), indent=1), encoding="utf-8")
    (folder / "report.md").write_text(markdown(found), encoding="utf-8")
    say(main_table(found))
    for line in shortfalls(found):
        say(f"a baseline is ahead: {line}")
    say(f"report: {folder / 'report.md'}")
    return found


def _open(workspace: Workspace, *, run: str) -> tuple[Dataset, Path]:
    """The run's model and the dataset that it was trained on."""
    model = workspace.runs / run / "model"
    if not all((model / name).is_file() for name in ("items.parquet", "training.json")):
        known = sorted(path.parent.name for path in workspace.runs.glob("*/model"))
        raise ConfigError(
            "no trained model", field="--run", value=run, fix=f"run jobs/train.py first; runs here: {known}"
        )
    trained_on = json.loads((model / "training.json").read_text(encoding="utf-8"))["dataset"]
    if not (workspace.datasets / trained_on).is_dir():
        raise ConfigError(
            f"the dataset that the run was trained on is not there: {workspace.datasets / trained_on}",
            field="--run",
            value=run,
            fix="bring it back, or train again on the current dataset",
        )
    dataset = Dataset.open(workspace.datasets / trained_on)
    if not pq.read_table(model / "items.parquet", columns=["item_id"]).equals(dataset.items.select(["item_id"])):
        raise ConfigError(
            f"the run was trained on another catalogue than dataset {dataset.folder.name} has",
            field="--run",
            value=run,
            fix="train again on the current dataset",
        )
    return dataset, model


def _baselines(
    dataset: Dataset, *, model: Path, parts: Path, recipe: Recipe, say: Say
) -> tuple[Baselines, tuple[str, ...]]:
    if not recipe.evaluate.baselines:
        return Baselines({}, None, {}), ("Baselines were switched off (evaluate.baselines).",)
    targets = dataset.training_targets()
    share = min(1.0, recipe.evaluate.baseline_rows / max(1, targets))
    say(f"baselines: sampling {share:.1%} of {targets:,} training targets")
    draw = partial(draw_sample, dataset.folder, model=model, parts=parts, seed=_SEED, buckets=dataset.buckets)
    sample = draw(split=TRAIN, share=share)
    later = draw(split=VALID, share=min(1.0, recipe.evaluate.baseline_rows / max(1, dataset.targets(VALID))))
    say(f"baselines: fitting on {len(sample.label_P):,} targets and {len(sample.bin_R):,} retention references")
    texts = frozen_texts(dataset, model)
    fitted = fit_baselines(sample, texts=texts, bins=len(dataset.recipe.retention.bin_ends), later=later)
    notes = [
        f"Baselines were fitted on {len(sample.label_P):,} of {targets:,} training targets, by moments drawn at random. "
        "Like the model they were calibrated on the validation split."
    ]
    if texts is None:
        notes.append(f"No logistic regression on frozen text vectors: the model folder has no {VECTORS}.")
    if fitted.retention and fitted.boosted is None:
        notes.append(boosting.MISSING)
    notes += fit_retrieval(dataset, parts / RETRIEVAL, config=recipe.evaluate, say=say)
    return fitted, tuple(notes)


def _collect(name: str, parts: Path, folder: Path, dataset: Dataset) -> pa.Table | None:
    """Join the part files of one kind, number the occasions, name the items, write the Parquet file."""
    (folder / FILES[name]).unlink(missing_ok=True)
    paths = sorted(parts.glob(f"{name}-part-*.parquet"))
    if not paths:
        return None
    table = pa.concat_tables([pq.read_table(path) for path in paths]).unify_dictionaries()
    split = pa.DictionaryArray.from_arrays(pa.array(np.zeros(table.num_rows, np.int8)), pa.array([SPLITS[TEST]]))
    table = table.add_column(0, "split", split)
    if "item_row" in table.column_names:
        ids = dataset.items.column("item_id").combine_chunks()
        item = pa.DictionaryArray.from_arrays(pa.array(table.column("item_row").to_numpy()), ids)
        table = table.add_column(2, "item", item)
        table = table.append_column("occasion", pa.array(_occasions(table), pa.int32()))
    pq.write_table(table, folder / FILES[name], compression="zstd", row_group_size=_ROW_GROUP)
    return table


def _occasions(table: pa.Table) -> NDArray[np.int64]:
    """A number per (user, timestamp)."""
    time_P = table.column("timestamp").cast(pa.int64()).to_numpy()
    _, moment_P = np.unique(time_P, return_inverse=True)
    pair_P = codes(table.column("user")) * (int(moment_P.max()) + 1) + moment_P
    return np.unique(pair_P, return_inverse=True)[1]


def _figures(
    tables: dict[str, pa.Table | None],
    *,
    dataset: Dataset,
    model: Path,
    run: str,
    recipe: Recipe,
    notes: tuple[str, ...],
) -> Evaluation:
    config = recipe.evaluate
    clicks, lists, retention = (tables[name] for name in PARTS)
    smallest = recipe.privacy.min_group
    report = click_report(clicks, config=config, seed=_SEED, min_group=smallest) if clicks is not None else None
    catalogue = {}
    if lists is not None:
        catalogue = catalogue_report(
            lists,
            ks=config.ks,
            vectors=_vectors(model),
            categories=dataset.items.column("categories").to_pylist(),
        )
    returning = {}
    if retention is not None:
        groups = _groups(dataset, recipe.policy.fairness.columns)
        returning = return_report(
            retention, bins=config.calibration_bins, seed=_SEED, groups=groups, min_group=smallest
        )
    more = []
    if lists is not None:
        more.append(f"Lists of the whole catalogue end after {config.retrieve} items; items beyond count as not found.")
    more += [f"Probability correction: {dataset.manifest['probability_correction']}."]
    if not dataset.recipe.retention.enabled:
        more.append(f"No retention figures: {dataset.recipe.retention.reason_off or 'the head is off'}.")
    elif treatments := dataset.recipe.retention.treatments:
        more.append(UNTREATED.format(treatments=", ".join(treatments)))
    return Evaluation(
        run=run,
        recipe=dataset.recipe.name,
        dataset=dataset.folder.name,
        split=SPLITS[TEST],
        clicks=report,
        catalogue=catalogue,
        retention={days: one.methods for days, one in returning.items()},
        retention_slices={days: one.slices for days, one in returning.items()},
        retention_lead={days: one.lead for days, one in returning.items()},
        report_days=dataset.recipe.retention.report_days,
        ratings=number_report(clicks, actual="rating", methods=RATINGS),
        spend=spend_report(retention),
        ks=config.ks,
        notes=(*notes, *more),
    )


def _groups(dataset: Dataset, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Column → user → value, for the columns by which the policy compares groups."""
    if not columns:
        return {}
    users = pq.read_table(dataset.folder / "users.parquet", columns=["user_id", "categorical"]).to_pylist()
    of = {row["user_id"]: dict(row["categorical"] or ()) for row in users}
    return {name: {user: str(known[name]) for user, known in of.items() if name in known} for name in columns}


def _vectors(model: Path) -> NDArray[np.float32]:
    """Vectors for the diversity of lists: the pretrained encoder's, which favour no method; without texts the model's own."""
    if (model / VECTORS).is_file():
        from clm_ray.evaluate.text_baseline import ROWS

        return np.asarray(np.load(model / VECTORS)[np.load(model / ROWS)], np.float32)
    return np.asarray(np.load(model / "item_vectors.npy"), np.float32)


def _draw(folder: Path, tables: dict[str, pa.Table | None], *, dataset: Dataset, model: Path, bins: int) -> None:
    clicks, _, retention = (tables[name] for name in PARTS)
    if clicks is not None:
        names = [name for name in CLICK_BASELINES if name in clicks.column_names]
        scores = {MODEL: clicks.column("probability").to_numpy()} | {n: clicks.column(n).to_numpy() for n in names}
        label, weight = clicks.column("label").to_numpy(), clicks.column("weight").to_numpy()
        rows = f"{len(label):,} candidates of the test split"
        plots.reliability(folder / "reliability.png", label=label, weight=weight, scores=scores, bins=bins, rows=rows)
        plots.roc(folder / "roc.png", label=label, weight=weight, scores=scores, rows=rows)
    if retention is not None:
        days = dataset.recipe.retention.bin_ends
        table = retention.select([c for c in ("probability", *RETENTION_BASELINES) if c in retention.column_names])
        predicted = {
            MODEL if name == "probability" else name: table.column(name).to_numpy().reshape(-1, len(days))
            for name in table.column_names
        }
        back, seen = (retention.column(c).to_numpy()[:: len(days)] for c in ("bin", "seen_bins"))
        plots.retention(folder / "retention.png", back=back, seen=seen, days=days, predicted=predicted)
    log = model / "training.json"
    epochs: list[dict[str, Any]] = json.loads(log.read_text(encoding="utf-8"))["epochs"] if log.is_file() else []
    if epochs:
        plots.learning_curve(folder / "learning_curve.png", epochs=epochs)
