"""Retrieval baselines: they find the group of a user, know nothing of what comes later, and do without implicit.

The block world: users of group A take items 1 to 10, users of the twice as large group B items 11 to 20, in training all but one each; that one
is what they take in the test period.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import made_world
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from implicit.cpu.als import AlternatingLeastSquares
from made_world import DAY_US, START, TRAIN_DAYS, Visit
from scipy import sparse

from clm_ray.config.evaluate import AlsConfig
from clm_ray.data.buckets import part
from clm_ray.data.neighbours import opinions_before, opinions_of
from clm_ray.data.user_neighbours import UserIds, similar_users
from clm_ray.evaluate.als import MISSING, fit_als
from clm_ray.evaluate.baselines import Baselines
from clm_ray.evaluate.dataset import Dataset, Occasions
from clm_ray.evaluate.interactions import Interactions, taken_before
from clm_ray.evaluate.knn import damped, fit_item_knn
from clm_ray.evaluate.retrieval import FOLDER, RetrievalBaselines, fit_retrieval
from clm_ray.evaluate.sampling import pair_features
from clm_ray.evaluate.scoring import BucketScorer, ScoringPlan
from clm_ray.features.history import EMPTY, History
from clm_ray.features.neighbours import RELATIONS

CONFIG = made_world.recipe().evaluate.model_copy(update={"als": AlsConfig(factors=4)})
"""With as many factors as items there is nothing to generalise: every item has its own."""
ENDS = (START + 40 * DAY_US, START + TRAIN_DAYS * DAY_US)
METHODS = ("als", "item_knn", "user_knn")
USERS = 60


def items_of(user: int) -> np.ndarray:
    """The ten items of the user's group."""
    return np.arange(1, 11, dtype=np.int32) + 10 * (user % 3 != 0)


def unseen(user: int) -> int:
    """The one that the user does not take before the test period."""
    return int(items_of(user)[user // 3 % 10])


def block_visits(*, later: int = 0) -> list[Visit]:
    """`later` changes what happens in the test period."""
    visits = []
    for user in range(USERS):
        mine = np.setdiff1d(items_of(user), [unseen(user)])
        visits.append(Visit(user, START + (user % 30) * DAY_US, mine[:5]))
        visits.append(Visit(user, START + (41 + user % 30) * DAY_US, mine[5:]))
        taken = np.array([(unseen(user) + later - 1) % 20 + 1], np.int32)
        visits.append(Visit(user, START + (TRAIN_DAYS + 1 + later) * DAY_US + user, taken))
    return visits


def write(folder: Path, **changed: int) -> Dataset:
    made_world.write(folder, made=made_world.recipe(), visits=block_visits(**changed))
    dataset = Dataset.open(folder)
    write_user_neighbours(dataset, ends=ENDS)
    return dataset


def write_user_neighbours(dataset: Dataset, *, ends: Sequence[int]) -> None:
    """As the build does, without Ray."""
    events = pa.concat_tables([pq.read_table(dataset.folder / "events" / part(b)) for b in dataset.buckets])
    blocks = [opinions_of(events, dataset.source)]
    ids = UserIds.of(events.column("user_id").unique())
    config = dataset.recipe.neighbours.model_copy(update={"users": 5})
    (dataset.folder / "user_neighbours").mkdir(exist_ok=True)
    for bucket in dataset.buckets:
        parts = [
            similar_users(
                opinions_before(end, blocks),
                ids,
                relation=RELATIONS.index("choice"),
                end=end,
                config=config,
                bucket=bucket,
                buckets=len(dataset.buckets),
            )
            for end in ends
        ]
        table = pa.concat_tables(parts).replace_schema_metadata({"ends": str(list(ends))})
        pq.write_table(table, dataset.folder / "user_neighbours" / part(bucket))


def fitted(dataset: Dataset, folder: Path) -> RetrievalBaselines:
    fit_retrieval(dataset, folder / FOLDER, config=CONFIG, say=lambda _: None)
    return RetrievalBaselines.open(folder / FOLDER, dataset, pair_features(dataset), config=CONFIG)


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write(tmp_path_factory.mktemp("block") / "made")


@pytest.fixture(scope="module")
def baselines(block: Dataset, tmp_path_factory: pytest.TempPathFactory) -> RetrievalBaselines:
    return fitted(block, tmp_path_factory.mktemp("fitted"))


def whole(time: int) -> Occasions:
    item = np.arange(made_world.ITEMS_COUNT, dtype=np.int32)
    none = np.empty(0, np.float32)
    return Occasions(np.array([time]), np.array([0, len(item)]), item, none, none, none)


def test_everything_that_the_dataset_allows_is_fitted(baselines: RetrievalBaselines) -> None:
    assert baselines.names == METHODS


@pytest.mark.parametrize("method", METHODS)
def test_the_own_groups_unseen_item_stands_above_the_other_group_and_popularity(
    method: str, block: Dataset, baselines: RetrievalBaselines
) -> None:
    asked = [case for bucket in block.buckets for case in block.test_cases(bucket)]
    assert len(asked) == USERS
    for case in asked:
        user, time = int(case.user_id[1:]), int(case.catalogue.time_Q[0])
        others = np.setdiff1d(np.arange(1, 21), items_of(user))
        score = baselines.scores(method, case.user_id, case.history, whole(time))
        assert score[unseen(user)] > score[others].max()
        assert score[unseen(user)] > score[21:].max()
        popular = baselines.features.popularity(case.history, whole(time))[:, 0]
        if user % 3 == 0:
            assert popular[unseen(user)] < popular[others].min()


@pytest.mark.parametrize("repeat", [True, False])
def test_the_catalogue_is_ranked_by_the_rule_that_all_methods_follow(
    repeat: bool, block: Dataset, made_workspace, tmp_path: Path
) -> None:
    fitted(block, tmp_path)
    model = made_workspace.runs / "default" / "model"
    plan = ScoringPlan(block.folder, model, tmp_path, CONFIG, Baselines({}, None, {}), made_world.KnowingScorer.open)
    scorer = BucketScorer(plan)
    serve = scorer.scorer.recipe.serve.model_copy(update={"repeat": repeat})
    scorer.scorer = made_world.KnowingScorer(scorer.scorer.recipe.model_copy(update={"serve": serve}))
    rows = scorer._catalogue(list(block.test_cases(0))).to_pandas()
    assert set(rows["method"]) == {"model", *METHODS}
    for method in METHODS:
        mine = rows[rows["method"] == method]
        if not repeat:
            assert (mine.loc[mine["taken"], "rank"] == 1).all(), method
        user_L = mine["user"].str[1:].astype(int)
        again = [i in items_of(u) and i != unseen(u) for i, u in zip(mine["item_row"], user_L, strict=True)]
        assert any(again) == repeat, method


def test_what_happens_after_training_changes_nothing_that_is_fitted(block: Dataset, tmp_path: Path) -> None:
    other = write(tmp_path / "made", later=3)
    contents = []
    for n, dataset in enumerate((block, other)):
        root = tmp_path / f"of{n}"
        fitted(dataset, root)
        contents.append({str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    assert contents[0].keys() >= {"retrieval/als.npy", "retrieval/item_knn/value.npy", "retrieval/x/value.npy"}
    assert contents[0] == contents[1]


@pytest.mark.parametrize("method", METHODS)
def test_events_at_the_moment_or_after_it_change_no_score(
    method: str, block: Dataset, baselines: RetrievalBaselines
) -> None:
    case = next(block.test_cases(0))
    for time in (int(case.catalogue.time_Q[0]), START + 60 * DAY_US):
        cut = case.history.before(time)
        assert len(cut) < len(case.history)
        one, two = (baselines.scores(method, case.user_id, history, whole(time)) for history in (case.history, cut))
        assert one.tolist() == two.tolist()


def test_user_knn_reads_the_last_slice_closed_before_the_moment(tmp_path: Path) -> None:
    dataset = write(tmp_path / "made")
    found = fitted(dataset, tmp_path)
    table = pq.read_table(dataset.folder / "user_neighbours" / part(0))
    user = table.column("user_id")[0].as_py()
    near = found._neighbours_of(user)
    assert near.of(user, ENDS[0] - 1)[0].tolist() == []
    for end, time in ((ENDS[0], ENDS[0]), (ENDS[0], ENDS[1] - 1), (ENDS[1], ENDS[1]), (ENDS[1], ENDS[1] + 9 * DAY_US)):
        mine = table.filter(pa.array([r["end"] == end and r["user_id"] == user for r in table.to_pylist()]))
        rows, similarity = near.of(user, time)
        assert found.user_U.take(pa.array(rows)).to_pylist() == mine.column("neighbour_id").to_pylist()
        assert similarity.tolist() == mine.column("similarity").to_pylist()
    assert near.of("nobody", ENDS[1])[0].tolist() == []


@pytest.mark.parametrize("method", METHODS)
def test_who_took_nothing_before_gets_the_popular_items(method: str, baselines: RetrievalBaselines) -> None:
    asked = whole(START + 100 * DAY_US)
    score = baselines.scores(method, "a stranger", EMPTY, asked)
    assert score == pytest.approx(baselines.features.popularity(EMPTY, asked)[:, 0].astype(np.float32))


def test_neighbours_recommend_first_and_popularity_fills_the_list_up(
    block: Dataset, baselines: RetrievalBaselines
) -> None:
    case = next(case for case in block.test_cases(0) if int(case.user_id[1:]) % 3 == 0)
    asked = whole(int(case.catalogue.time_Q[0]))
    score = baselines.scores("item_knn", case.user_id, case.history, asked)
    popularity = baselines.features.popularity(case.history, asked)[:, 0].astype(np.float32)
    assert (score[1:11] > 0).all()
    assert score[11:] == pytest.approx(popularity[11:])


def test_a_user_is_folded_in_as_implicit_does_it(block: Dataset) -> None:
    x = Interactions.read(block)
    als = fit_als(x.count_UI, CONFIG.als)
    assert als is not None
    model = AlternatingLeastSquares(
        factors=CONFIG.als.factors, regularization=CONFIG.als.regularisation, alpha=1.0, num_threads=1
    )
    model.item_factors = als.factor_IF
    row = x.count_UI[4].copy()
    count = np.arange(1, row.nnz + 1)
    row.data = (1 + CONFIG.als.alpha * count).astype(np.float32)
    expected = als.factor_IF @ model.recalculate_user(0, row)
    assert als.scores(row.indices, count, gram=als.gram()) == pytest.approx(expected, abs=1e-4)


def test_als_gives_the_same_factors_whatever_the_threads(block: Dataset) -> None:
    x = Interactions.read(block)
    one, two, again = (fit_als(x.count_UI, CONFIG.als.model_copy(update={"threads": threads})) for threads in (1, 2, 2))
    assert one is not None
    assert two is not None
    assert again is not None
    assert one.factor_IF.tobytes() == two.factor_IF.tobytes() == again.factor_IF.tobytes()


def test_item_knn_is_the_sum_of_similarities_to_what_the_user_took() -> None:
    random = np.random.default_rng(1)
    count = random.integers(0, 3, (12, 7)).astype(np.float32)
    config = CONFIG.item_knn.model_copy(update={"top": 3, "shrinkage": 2.0})
    x = sparse.csr_matrix(count)
    value, known = damped(x).toarray(), count > 0
    near, norm = np.zeros((7, 7)), np.linalg.norm(value, axis=0)
    for one in range(7):
        for two in range(7):
            if one != two:
                common = (known[:, one] & known[:, two]).sum()
                near[one, two] = value[:, one] @ value[:, two] / norm[one] / norm[two] * common / (common + 2.0)
        near[one, np.argsort(-near[one])[3:]] = 0.0
    np.fill_diagonal(near, 1.0)
    found = fit_item_knn(x, config).weighted_sum(np.array([2, 5]), np.array([1.0, 3.0]), width=7)
    assert found == pytest.approx(near[2] + 3 * near[5], rel=1e-5)


def test_what_a_user_took_is_what_x_holds_of_the_user_at_the_end_of_training(block: Dataset) -> None:
    x = Interactions.read(block)
    assert x.user_U.to_pylist() == sorted(x.user_U.to_pylist())
    for bucket in block.buckets:
        for user, history in block.histories(bucket).items():
            items, counts = taken_before(history, ENDS[1], vocabulary=block.vocabulary)
            row = x.count_UI[x.user_U.to_pylist().index(user)]
            assert (items.tolist(), counts.tolist()) == (row.indices.tolist(), row.data.tolist())


def test_without_implicit_als_is_left_out_and_the_report_says_how_to_get_it(
    block: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("implicit", "implicit.cpu", "implicit.cpu.als"):
        monkeypatch.setitem(sys.modules, name, None)
    said: list[str] = []
    notes = fit_retrieval(block, tmp_path / FOLDER, config=CONFIG, say=said.append)
    assert MISSING in said
    assert MISSING in notes
    assert "pip install 'clm-ray[als]'" in MISSING
    assert not notes[0].startswith("ALS")
    found = RetrievalBaselines.open(tmp_path / FOLDER, block, pair_features(block), config=CONFIG)
    assert found.names == ("item_knn", "user_knn")


def test_a_training_period_without_interactions_has_no_retrieval_baselines(tmp_path: Path) -> None:
    dataset = write(tmp_path / "made")
    for bucket in dataset.buckets:
        path = dataset.folder / "interactions" / part(bucket)
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    (note,) = fit_retrieval(dataset, tmp_path / FOLDER, config=CONFIG, say=lambda _: None)
    assert "no interaction" in note
    assert RetrievalBaselines.open(tmp_path / FOLDER, dataset, pair_features(dataset), config=CONFIG).names == ()
    silent = replace(
        dataset,
        recipe=dataset.recipe.model_copy(
            update={"impressions": dataset.recipe.impressions.model_copy(update={"catalogue_occasions": 0})}
        ),
    )
    assert fit_retrieval(silent, tmp_path / "none", config=CONFIG, say=lambda _: None) == []


def test_negative_and_unknown_items_are_not_taken(block: Dataset) -> None:
    mail = block.vocabulary.names.index("mail")
    buy = block.vocabulary.names.index("purchase")
    history = History(
        np.array([1, 0, 2, 1, 3], np.int32),
        np.array([buy, buy, mail, buy, buy], np.int16),
        np.zeros(5, np.float32),
        np.array([10, 20, 30, 40, 50]),
    )
    items, counts = taken_before(history, 50, vocabulary=block.vocabulary)
    assert (items.tolist(), counts.tolist()) == ([1], [2])
