"""Scoring one bucket, without Ray: the actor is a plain class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import made_world
import numpy as np
import pyarrow.parquet as pq
import pytest

from clm_ray.data.buckets import part
from clm_ray.evaluate import logistic
from clm_ray.evaluate.baselines import Baselines
from clm_ray.evaluate.dataset import Dataset
from clm_ray.evaluate.scoring import BucketScorer, ScoringPlan, top
from clm_ray.evaluate.scoring import _batches as batches
from clm_ray.evaluate.scoring import _places as places


@pytest.fixture
def plan(made_workspace, tmp_path: Path) -> ScoringPlan:
    model = made_workspace.runs / "default" / "model"
    dataset = made_workspace.current("datasets")
    open_scorer = made_world.KnowingScorer.open
    return ScoringPlan(dataset, model, tmp_path, made_world.recipe().evaluate, Baselines({}, None, {}), open_scorer)


def test_every_candidate_gets_the_probability_of_its_own_moment(plan: ScoringPlan) -> None:
    assert BucketScorer(plan).score(0) > 0
    rows = pq.read_table(plan.parts / f"click-{part(0)}")
    scorer = made_world.KnowingScorer(made_world.recipe())
    dataset = Dataset.open(plan.dataset)
    at = 0
    from clm_ray.model.inference import UserRequest

    for case in dataset.test_cases(0):
        for q, time in enumerate(case.shown.time_Q):
            items = case.shown.items(q)
            states = scorer.states([UserRequest(case.user_id, case.history, int(time))])
            cut = rows.slice(at, len(items))
            assert cut.column("item_row").to_pylist() == items.tolist()
            assert set(cut.column("user").to_pylist()) == {case.user_id}
            assert cut.column("timestamp").cast("int64").unique().to_pylist() == [int(time)]
            assert cut.column("probability").to_numpy() == pytest.approx(scorer.click(states, [items])[0])
            at += len(items)
    assert at == rows.num_rows


def test_the_offset_of_an_occasion_is_applied_to_its_probabilities(plan: ScoringPlan, tmp_path: Path) -> None:
    scorer = BucketScorer(plan)
    cases = list(scorer.dataset.test_cases(0))
    plain = scorer._clicks(cases).column("probability").to_numpy()
    moved = [replace(c, shown=replace(c.shown, offset_P=np.full_like(c.shown.offset_P, np.log(2)))) for c in cases]
    odds = plain / (1 - plain) * 2
    assert scorer._clicks(moved).column("probability").to_numpy() == pytest.approx(odds / (1 + odds), rel=1e-5)


def test_catalogue_lists_come_from_retrieval_and_keep_track_of_what_was_taken(plan: ScoringPlan) -> None:
    BucketScorer(plan).score(0)
    rows = pq.read_table(plan.parts / f"catalogue-{part(0)}").to_pandas()
    keep = max(plan.config.ks)
    for _, mine in rows.groupby(["user", "timestamp"]):
        ranked = mine[mine["rank"] > 0].sort_values("rank")
        assert ranked["rank"].tolist()[:keep] == list(range(1, keep + 1))
        assert (np.diff(ranked["probability"]) <= 0).all()
        assert mine["taken"].sum() >= 1
        assert mine.loc[mine["rank"] == 0, "taken"].all()
        assert (ranked["rank"] <= plan.config.retrieve).all()


@pytest.mark.parametrize("repeat", [True, False])
def test_baselines_list_what_the_user_had_only_where_the_model_may(plan: ScoringPlan, repeat: bool) -> None:
    x = np.array([[0.0], [1.0]])
    rising = logistic.fit_rising(x, label=x[:, 0], weight=np.ones(2), offset=np.zeros(2))
    scorer = BucketScorer(replace(plan, baselines=Baselines({"popularity": rising}, None, {})))
    recipe = scorer.scorer.recipe
    serve = recipe.serve.model_copy(update={"repeat": repeat})
    scorer.scorer = made_world.KnowingScorer(recipe.model_copy(update={"serve": serve}))
    cases = [case for case in scorer.dataset.test_cases(0) if len(case.catalogue.time_Q)]
    rows = scorer._catalogue(cases).to_pandas()
    listed = rows[(rows["method"] == "popularity") & (rows["rank"] > 0)]
    again = 0
    for (user, moment), mine in listed.groupby(["user", "timestamp"]):
        history = next(case.history for case in cases if case.user_id == user)
        had = history.item_N[history.time_N < moment.value // 1000]
        again += np.isin(mine["item_row"], had).sum()
    assert len(listed)
    assert (again > 0) == repeat


def test_retention_rows_are_known_where_the_log_reaches(plan: ScoringPlan) -> None:
    BucketScorer(plan).score(0)
    rows = pq.read_table(plan.parts / f"retention-{part(0)}").to_pandas()
    days = list(made_world.recipe().retention.bin_ends)
    assert sorted(rows["horizon_days"].unique()) == days
    position = rows["horizon_days"].map({day: j for j, day in enumerate(days)})
    assert (rows["censored"] == (rows["seen_bins"] <= position)).all()
    assert (rows["outcome"] == (rows["bin"] <= position)).all()
    assert rows["censored"].any()
    assert not rows["censored"].all()
    for _, mine in rows.groupby(["user", "timestamp"]):
        assert (np.diff(mine["probability"]) >= 0).all()


def test_top_is_the_best_in_order_whatever_the_order_of_the_items() -> None:
    random = np.random.default_rng(0)
    item = random.permutation(500).astype(np.int32)
    score = random.integers(0, 20, 500).astype(np.float32)
    rows, values = top(item, score, count=30)
    assert values.tolist() == sorted(score, reverse=True)[:30]
    order = random.permutation(500)
    assert top(item[order], score[order], count=30)[0].tolist() == rows.tolist()


def test_places_name_the_rank_of_every_taken_item() -> None:
    list_K = np.array([7, 5, 9, 4], np.int32)
    rows = places(list_K, np.array([4, 3, 2, 1], np.float32), taken=np.array([4, 5, 8], np.int32), keep=2)
    assert rows["item_row"].tolist() == [7, 5, 4, 8]
    assert rows["rank"].tolist() == [1, 2, 4, 0]
    assert rows["taken"].tolist() == [False, True, True, True]


def test_batches_are_bounded_and_lose_nothing() -> None:
    sizes = [60_000, 60_000, 10, 300_000, 5]
    cuts = list(batches(sizes))
    assert [sizes[cut] for cut in cuts] == [[60_000], [60_000, 10], [300_000], [5]]
    assert [len(range(10_000)[cut]) for cut in batches([1] * 600)] == [256, 256, 88]
    assert list(batches([])) == []
