"""The whole room on Ray: a made dataset goes in, report, pictures and predictions come out, and can be recomputed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import made_world
import pyarrow.parquet as pq
import pytest
import ray
from sklearn.metrics import log_loss, roc_auc_score

from clm_ray.config.workspace import Workspace
from clm_ray.errors import ConfigError, DataError
from clm_ray.evaluate.dataset import Dataset
from clm_ray.evaluate.report import markdown
from clm_ray.evaluate.run import _figures, _open, evaluate
from clm_ray.evaluate.scoring import PARTS
from clm_ray.schema import TIMESTAMP


@pytest.mark.ray
def test_evaluate_writes_figures_that_can_be_recomputed(ray_session: None, made_workspace: Workspace) -> None:
    ray.cloudpickle.register_pickle_by_value(made_world)
    said: list[str] = []
    found = evaluate(
        made_workspace,
        run="default",
        recipe=made_world.recipe(),
        say=said.append,
        open_scorer=made_world.KnowingScorer.open,
    )
    folder = made_workspace.evaluations / "default"
    assert sorted(path.name for path in folder.iterdir()) == [
        "catalogue_predictions.parquet",
        "learning_curve.png",
        "metrics.json",
        "predictions.parquet",
        "reliability.png",
        "report.md",
        "retention.png",
        "retention_predictions.parquet",
        "retrieval.png",
        "roc.png",
    ]
    figures = json.loads((folder / "metrics.json").read_text())
    rows = pq.read_table(folder / "predictions.parquet").to_pandas()
    asked = ["split", "user", "item", "timestamp", "label", "weight", "probability"]
    assert set(asked) <= set(rows.columns)
    assert set(rows["split"]) == {"test"}
    assert pq.read_schema(folder / "predictions.parquet").field("timestamp").type == TIMESTAMP
    for method, column in (("model", "probability"), ("popularity", "popularity"), ("text_logistic", "text_logistic")):
        mine = figures["clicks"]["methods"][method]
        assert mine["auc"] == pytest.approx(roc_auc_score(rows["label"], rows[column]))
        assert mine["log_loss"] == pytest.approx(log_loss(rows["label"], rows[column].astype(float)), rel=1e-5)
    assert figures["clicks"]["methods"]["model"]["auc"] > 0.75 > figures["clicks"]["methods"]["popularity"]["auc"]
    assert rows.groupby(["user", "timestamp"]).ngroups == rows["occasion"].nunique() == found.clicks.occasions
    assert (rows["item"] == rows["item_row"].map(lambda i: f"i{i:03d}")).all()

    stays = pq.read_table(folder / "retention_predictions.parquet").to_pandas()
    known = stays[(stays["horizon_days"] == 7) & ~stays["censored"]]
    assert figures["retention"]["7"]["model"]["auc"] == pytest.approx(
        roc_auc_score(known["outcome"], known["probability"])
    )
    assert figures["retention"]["7"]["model"]["auc"] > figures["retention"]["7"]["recency"]["auc"]
    by_stage = figures["retention_slices"]["7"]
    assert sum(one["rows"] for one in by_stage) == len(known)
    assert {one["name"] for one in by_stage} == {f"stage {stage}" for stage in known["stage"].unique()}
    assert figures["retention_lead"]["7"].keys() == figures["retention"]["7"].keys() - {"model"}

    lists = pq.read_table(folder / "catalogue_predictions.parquet").to_pandas()
    taken = lists[(lists["method"] == "model") & lists["taken"]]
    hits = taken.groupby("occasion")["rank"].agg(lambda r: ((r > 0) & (r <= 3)).mean())
    assert figures["catalogue"]["model"]["recall"]["3"] == pytest.approx(hits.mean())

    assert {"model", "popularity", "als", "item_knn"} <= figures["catalogue"].keys()
    assert not {"als", "item_knn"} & figures["clicks"]["methods"].keys()

    assert any("| click: AUC" in text for text in said)
    report = (folder / "report.md").read_text()
    for word in (
        "repurchase",
        "LR on frozen text vectors",
        "recency only",
        "Slices",
        "users with < 3 earlier events",
        "by stage",
    ):
        assert word in report
    for word in (" ALS (implicit) |", " item-kNN |", "ALS, item-kNN: fitted on the", "(retrieval.png)"):
        assert word in report

    written = (folder / "metrics.json").read_bytes()
    evaluate(made_workspace, run="default", recipe=made_world.recipe(), open_scorer=made_world.KnowingScorer.open)
    assert (folder / "metrics.json").read_bytes() == written, (
        "a release's id hangs on it: nothing that differs between two runs"
    )
    bare = made_world.recipe().model_copy(
        update={"evaluate": made_world.recipe().evaluate.model_copy(update={"baselines": False})}
    )
    found = evaluate(made_workspace, run="default", recipe=bare, open_scorer=made_world.KnowingScorer.open)
    assert set(found.catalogue) == {"model"}


def test_a_run_that_is_not_there_names_those_that_are(made_workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match="default"):
        evaluate(made_workspace, run="nothing", recipe=made_world.recipe())


def test_a_run_is_evaluated_on_its_own_dataset_whatever_the_current_one_is(
    made_workspace: Workspace, tmp_path: Path
) -> None:
    """Also one that is not finished, whose best model so far is there."""
    workspace = Workspace(tmp_path)
    shutil.copytree(made_workspace.datasets / "made", workspace.datasets / "made")
    shutil.copytree(made_workspace.datasets / "made", workspace.datasets / "later")
    shutil.copytree(made_workspace.runs, workspace.runs)
    workspace.point("datasets", "later")
    dataset, model = _open(workspace, run="default")
    assert (dataset.folder.name, model.parent.name) == ("made", "default")
    shutil.rmtree(workspace.datasets / "made")
    with pytest.raises(ConfigError, match=r"trained on is not there.*made"):
        evaluate(workspace, run="default", recipe=made_world.recipe())


def test_with_treatments_the_report_says_whom_its_figures_are_about(dataset_folder: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(dataset_folder)
    treated = replace(dataset, recipe=made_world.recipe(treatments=["mail"]))
    notes = {}
    for name, one in (("plain", dataset), ("treated", treated)):
        nothing = dict.fromkeys(PARTS)
        found = _figures(nothing, dataset=one, model=tmp_path, run="r", recipe=one.recipe, notes=())
        notes[name] = [line for line in markdown(found).splitlines() if "not treated" in line]
    assert notes["plain"] == []
    (said,) = notes["treated"]
    assert said.startswith("- Retention figures")
    assert "within the horizon (mail)" in said


def test_a_run_of_another_catalogue_is_refused(made_workspace: Workspace, tmp_path: Path) -> None:
    other = made_workspace.runs / "other" / "model"
    shutil.copytree(made_workspace.runs / "default" / "model", other)
    table = made_world.items()
    pq.write_table(table.slice(0, table.num_rows - 1), other / "items.parquet")
    with pytest.raises(ConfigError, match="another catalogue"):
        evaluate(made_workspace, run="other", recipe=made_world.recipe())
    shutil.rmtree(other.parent)


@pytest.mark.ray
def test_an_empty_test_split_is_an_error_that_says_so(
    ray_session: None, made_workspace: Workspace, tmp_path: Path
) -> None:
    ray.cloudpickle.register_pickle_by_value(made_world)
    workspace = Workspace(tmp_path)
    shutil.copytree(made_workspace.root / "datasets", workspace.datasets)
    shutil.copytree(made_workspace.root / "runs", workspace.runs)
    for name in ("impressions", "references"):
        for path in (workspace.datasets / "made" / name).iterdir():
            pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(DataError, match="test split is empty"):
        evaluate(
            workspace,
            run="default",
            recipe=made_world.recipe(),
            say=lambda _: None,
            open_scorer=made_world.KnowingScorer.open,
        )
    assert not list((workspace.evaluations / "default").iterdir())
