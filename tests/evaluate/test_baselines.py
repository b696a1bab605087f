"""Baselines: right by hand, point-in-time, and honest as probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import made_world
import numpy as np
import pytest

from clm_ray.evaluate import calibrated
from clm_ray.evaluate.baselines import ClickBaselines, PairFeatures, fit_baselines, retention_columns, with_offset
from clm_ray.evaluate.dataset import Dataset, Occasions
from clm_ray.evaluate.logistic import LEAST_WEIGHT, fit_rising
from clm_ray.evaluate.sample import Sample
from clm_ray.evaluate.sampling import _sample_bucket as sample_bucket
from clm_ray.evaluate.sampling import frozen_texts, pair_features
from clm_ray.evaluate.text_baseline import FrozenTexts
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.features.statistics import ItemStatistics
from clm_ray.schema import DAY_US, TRAIN

DAY0 = 17_000 * DAY_US


def _occasions(times: list[int], items: list[list[int]]) -> Occasions:
    flat = np.array([i for row in items for i in row], np.int32)
    nothing = np.zeros(len(flat), np.float32)
    start = np.cumsum([0, *(len(row) for row in items)])
    return Occasions(np.array(times, np.int64), start, flat, nothing, nothing, nothing)


def _history(events: list[tuple[int, int, int]], values: list[float] | None = None) -> History:
    item, kind, time = (np.array(column) for column in zip(*events, strict=True))
    value = np.array(values if values is not None else [1.0] * len(events), np.float32)
    return History(item.astype(np.int32), kind.astype(np.int16), value, time.astype(np.int64))


def _features(vocabulary: EventVocabulary, *, prior: float = 10.0) -> PairFeatures:
    item, day = np.array([1, 1, 2], np.int32), np.array([17_000, 17_001, 17_001], np.int32)
    statistics = ItemStatistics.from_daily(
        item, day, np.array([4.0, 4.0, 2.0]), np.array([3.0, 1.0, 2.0]), np.array([0.0, 0.0, 0.0])
    )
    return PairFeatures(statistics, vocabulary, prior, items=5)


def test_popularity_knows_the_days_before_alone() -> None:
    features = _features(EventVocabulary(made_world.recipe().event_types))
    late_on_day_one = DAY0 + DAY_US + DAY_US - 1
    asked = _occasions([DAY0, late_on_day_one, DAY0 + 2 * DAY_US], [[1], [1, 2], [1, 2]])
    share = features.popularity(_history([(1, 0, 0)]), asked)[:, 0]
    assert np.exp(share) == pytest.approx([1 / 5, 4 / 8, 1 / 8, 5 / 11, 3 / 11])


def test_popularity_of_few_and_of_all_items_agree() -> None:
    features = _features(EventVocabulary(made_world.recipe().event_types))
    whole = features.popularity(_history([(1, 0, 0)]), _occasions([DAY0 + 2 * DAY_US], [[0, 1, 2, 3, 4]]))
    one = features.popularity(_history([(1, 0, 0)]), _occasions([DAY0 + 2 * DAY_US], [[1]]))
    assert whole[1] == one[0]


def test_repurchase_counts_own_earlier_purchases_of_the_item() -> None:
    features = _features(EventVocabulary(made_world.recipe().event_types))
    mail = 1
    history = _history([(1, 0, 10), (1, 0, 20), (1, mail, 20), (2, 0, 20), (1, 0, 30)])
    columns = features.repurchase(history, _occasions([20, 30, 31], [[1, 2], [1, 2], [1, 3]]))
    assert np.expm1(columns[:, 1]) == pytest.approx([1, 0, 2, 1, 3, 0])
    assert columns[:, 0].tolist() == [1, 0, 1, 1, 1, 0]


def test_means_are_shrunk_and_exclude_the_moment_itself() -> None:
    rated = made_world.recipe().event_types | {
        "rating": made_world.recipe()
        .event_types["purchase"]
        .model_copy(update={"roles": ("context",), "value": "rating", "positive_from": 4.0})
    }
    features = _features(EventVocabulary(rated), prior=2.0)
    rating = 3
    history = _history([(1, rating, 10), (2, rating, 20), (1, rating, 30)], [5.0, 2.0, 5.0])
    columns = features.means(history, _occasions([20, 30, 31], [[3], [3], [3]]))
    odds = np.exp(columns[:, 0])
    share = odds / (1 + odds)
    # Nothing is known of any item at that day: the overall rate is one half, worth two ratings.
    assert share == pytest.approx([(1 + 1) / 3, (1 + 1) / 4, (2 + 1) / 5])


@pytest.mark.parametrize("name", ["popularity", "repurchase", "means"])
def test_later_events_change_nothing(name: str, dataset_folder: Path) -> None:
    dataset = Dataset.open(dataset_folder)
    features = pair_features(dataset)
    case = next(c for c in dataset.test_cases(0) if len(c.shown.time_Q) > 2)
    asked = case.shown.select(np.arange(len(case.shown.time_Q)) == 1)
    cut = case.history.before(int(asked.time_Q[0]))
    assert features.of(name, case.history, asked) == pytest.approx(features.of(name, cut, asked), abs=0)
    day = int(asked.time_Q[0] // DAY_US)
    statistics = features.statistics
    later = np.where(statistics.day_K >= day, statistics.positives_K + 100, statistics.positives_K)
    changed = replace(features, statistics=replace(statistics, positives_K=later.astype(np.float32)), _shares={})
    assert changed.of(name, case.history, asked) == pytest.approx(features.of(name, case.history, asked), abs=0)


def test_text_means_stop_before_the_moment_and_reach_back_max_context(dataset_folder: Path, made_workspace) -> None:
    dataset = Dataset.open(dataset_folder)
    texts = frozen_texts(dataset, made_workspace.runs / "default" / "model")
    assert texts is not None
    history = _history([(i, 0, 10 * i) for i in range(1, 13)])
    means = texts.means(history, np.array([0, 20, 1000]))
    assert means[0].tolist() == [0.0] * means.shape[1]
    assert means[1] == pytest.approx(texts.vector_DH[texts.text_I[1]])
    assert means[2] == pytest.approx(texts.vector_DH[texts.text_I[5:13]].mean(0), abs=1e-6)


def _click(sample: Sample, dataset: Dataset, texts: FrozenTexts | None) -> ClickBaselines:
    return ClickBaselines(fit_baselines(sample, texts=texts, bins=4), pair_features(dataset), texts)


@pytest.fixture(scope="module")
def sample(made_workspace) -> Sample:
    dataset = Dataset.open(made_workspace.current("datasets"))
    model = made_workspace.runs / "default" / "model"
    return Sample.join(
        [sample_bucket(dataset, b, split=TRAIN, model=model, share=1.0, seed=0) for b in dataset.buckets]
    )


def test_probabilities_are_those_of_the_candidates_before_sampling(
    sample: Sample, dataset_folder: Path, made_workspace
) -> None:
    dataset = Dataset.open(dataset_folder)
    texts = frozen_texts(dataset, made_workspace.runs / "default" / "model")
    fitted = _click(sample, dataset, texts)
    cases = [c for b in dataset.buckets for c in dataset.test_cases(b) if len(c.shown.item_P)]
    observed = np.concatenate([c.shown.label_P for c in cases]).mean()
    sampled = sample.label_P.mean()
    assert sampled > 2 * observed
    for name in ("popularity", "text_logistic"):
        p = np.concatenate([fitted.probability(name, c.history, c.shown) for c in cases])
        assert p.mean() == pytest.approx(observed, rel=0.15), name


def test_text_logistic_finds_what_text_tells(sample: Sample, dataset_folder: Path, made_workspace) -> None:
    from clm_ray.metrics.click import auc

    dataset = Dataset.open(dataset_folder)
    texts = frozen_texts(dataset, made_workspace.runs / "default" / "model")
    fitted = _click(sample, dataset, texts)
    cases = [c for b in dataset.buckets for c in dataset.test_cases(b)]
    label = np.concatenate([c.shown.label_P for c in cases])
    p = np.concatenate([fitted.probability("text_logistic", c.history, c.shown) for c in cases])
    assert auc(label, score=p) > 0.75


def test_whole_catalogue_and_candidates_get_the_same_text_probability(
    sample: Sample, dataset_folder: Path, made_workspace
) -> None:
    dataset = Dataset.open(dataset_folder)
    texts = frozen_texts(dataset, made_workspace.runs / "default" / "model")
    fitted = _click(sample, dataset, texts)
    case = next(dataset.test_cases(0))
    time = int(case.history.time_N[-1])
    every = list(range(made_world.ITEMS_COUNT))
    for name in fitted.names:
        whole = fitted.probability(name, case.history, _occasions([time], [every]))
        some = fitted.probability(name, case.history, _occasions([time, time + 1], [[3, 7], [9]]))
        assert some[:2] == pytest.approx(whole[[3, 7]], rel=1e-5), name


def test_retention_columns_start_with_recency(dataset_folder: Path) -> None:
    dataset = Dataset.open(dataset_folder)
    case = next(c for c in dataset.test_cases(0) if len(c.references.time_R))
    columns = retention_columns(dataset.source, case.history, case.references.time_R)
    active = case.history.time_N[dataset.vocabulary.is_activity(case.history)]
    for row, time in zip(columns, case.references.time_R, strict=True):
        last = active[active < time].max()
        assert np.expm1(row[0]) == pytest.approx((time - last) / DAY_US, rel=1e-4)


def test_retention_baselines_beat_chance_and_never_fall_with_the_days(sample: Sample, dataset_folder: Path) -> None:
    from clm_ray.metrics.survival import horizon_auc

    dataset = Dataset.open(dataset_folder)
    fitted = fit_baselines(sample, texts=None, bins=4)
    cases = [c for b in dataset.buckets for c in dataset.test_cases(b)]
    columns = np.concatenate([retention_columns(dataset.source, c.history, c.references.time_R) for c in cases])
    back = np.concatenate([c.references.bin_R for c in cases])
    seen = np.concatenate([c.references.seen_R for c in cases])
    within = fitted.active_within(columns, np.zeros(len(columns), np.int8))
    for name, least in (("recency", 0.65), ("rfm", 0.7)):
        assert (np.diff(within[name], axis=1) >= 0).all()
        assert horizon_auc(back, seen=seen, probability=within[name][:, 2], horizon=2) > least


def test_baselines_are_calibrated_on_later_rows_as_the_model_is(
    sample: Sample, dataset_folder: Path, made_workspace
) -> None:
    dataset = Dataset.open(dataset_folder)
    texts = frozen_texts(dataset, made_workspace.runs / "default" / "model")
    random = np.random.default_rng(0)
    # Later on half of what would have been taken is not, and half of those who would have come back do not.
    fewer = np.where(random.random(len(sample.label_P)) < 0.5, sample.label_P, 0).astype(np.float32)
    gone = np.where(random.random(len(sample.bin_R)) < 0.5, sample.bin_R, 4).astype(np.int32)
    later = replace(sample, label_P=fewer, bin_R=gone)
    before = fit_baselines(sample, texts=texts, bins=4)
    after = fit_baselines(sample, texts=texts, bins=4, later=later)
    for name in before.click:
        chance = before.click[name].probability(sample.columns[name])
        offset = sample.offset_P.astype(np.float64)
        shifted = with_offset(calibrated.click(after.click_scale[name], chance), offset)
        assert np.average(shifted, weights=sample.weight_P) == pytest.approx(
            np.average(fewer, weights=sample.weight_P), rel=0.02
        )
        assert np.average(with_offset(chance.astype(np.float32), offset), weights=sample.weight_P) > 1.5 * np.average(
            fewer, weights=sample.weight_P
        )
    assert "text_logistic" in after.click_scale
    full = sample.seen_R >= 4
    assert not after.return_scale["recency"].by_stage, "the stages would tell it more than recency"
    assert after.return_scale["rfm"].by_stage
    for name, within in after.active_within(sample.recency_RF, sample.stage_R).items():
        assert (np.diff(within, axis=1) >= 0).all()
        back = (gone[full] < 4).mean()
        # One slope and intercept for the hazards of all bins of a stage: nearer to the rate of each horizon, not at it.
        uncalibrated = before.active_within(sample.recency_RF, sample.stage_R)[name][full, 3].mean()
        assert uncalibrated > back + 0.1
        assert abs(within[full, 3].mean() - back) < 0.5 * (uncalibrated - back)


def test_a_column_that_would_count_against_is_left_out_but_still_breaks_ties() -> None:
    x = np.arange(100.0)[:, None]
    label = (x[:, 0] < 50).astype(float)
    fitted = fit_rising(x, label=label)
    assert fitted.weight_F.tolist() == [LEAST_WEIGHT]
    p = fitted.probability(x)
    assert p == pytest.approx(np.full(100, 0.5), abs=0.01)
    assert (np.diff(p) > 0).all()


def test_the_offset_of_sampled_candidates_shifts_the_odds() -> None:
    p = np.array([0.2, 0.5], np.float32)
    assert with_offset(p, np.zeros(2, np.float32)) is p
    assert with_offset(p, np.full(2, np.log(4), np.float32)) == pytest.approx([0.5, 0.8])


def test_a_sample_survives_its_file(tmp_path: Path, sample: Sample) -> None:
    sample.save(tmp_path / "s.npz")
    again = Sample.load(tmp_path / "s.npz")
    assert again.columns.keys() == sample.columns.keys()
    assert (again.mean_MH == sample.mean_MH).all()
    assert (again.columns["repurchase"] == sample.columns["repurchase"]).all()


def test_joined_samples_keep_each_rows_moment(sample: Sample) -> None:
    both = Sample.join([sample, sample])
    half = len(sample.moment_P)
    assert (both.mean_MH[both.moment_P[half:]] == sample.mean_MH[sample.moment_P]).all()
