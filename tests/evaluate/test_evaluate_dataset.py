"""Reading a dataset folder back as whole users."""

from __future__ import annotations

from pathlib import Path

import made_world
import numpy as np
import pyarrow.parquet as pq
import pytest

from clm_ray.data.buckets import part
from clm_ray.errors import DataError
from clm_ray.evaluate.dataset import Dataset, Occasions


def test_every_event_of_a_bucket_is_in_one_history(dataset_folder: Path) -> None:
    dataset = Dataset.open(dataset_folder)
    for bucket in dataset.buckets:
        histories = dataset.histories(bucket)
        events = pq.read_table(dataset_folder / "events" / part(bucket))
        assert sum(map(len, histories.values())) == events.num_rows
        assert set(histories) == set(events.column("user_id").to_pylist())
        for history in histories.values():
            assert (np.diff(history.time_N) >= 0).all()


def test_test_cases_carry_every_candidate_and_reference(dataset_folder: Path) -> None:
    dataset = Dataset.open(dataset_folder)
    for bucket in dataset.buckets:
        impressions = pq.read_table(dataset_folder / "impressions" / part(bucket)).to_pylist()
        cases = list(dataset.test_cases(bucket))
        for kind in ("shown", "catalogue"):
            rows = [r for r in impressions if r["kind"] == kind]
            found = [getattr(case, kind) for case in cases]
            assert sum(len(o.time_Q) for o in found) == len(rows)
            assert sum(len(o.item_P) for o in found) == sum(len(r["item"]) for r in rows)
        wanted = {(r["user_id"], r["time"]): (r["item"], r["label"]) for r in impressions if r["kind"] == "shown"}
        for case in cases:
            for q, time in enumerate(case.shown.time_Q):
                cut = slice(case.shown.start_Q[q], case.shown.start_Q[q + 1])
                items, labels = wanted[(case.user_id, int(time))]
                assert case.shown.items(q).tolist() == items
                assert case.shown.label_P[cut].tolist() == labels
        references = pq.read_table(dataset_folder / "references" / part(bucket))
        assert sum(len(c.references.time_R) for c in cases) == references.num_rows


def test_train_cases_group_targets_by_moment(dataset_folder: Path) -> None:
    dataset = Dataset.open(dataset_folder)
    targets = 0
    for bucket in dataset.buckets:
        for case in dataset.train_cases(bucket):
            targets += len(case.shown.item_P)
            assert (np.diff(case.shown.time_Q) > 0).all()
            assert (np.diff(case.shown.start_Q) > made_world.NEGATIVES).all()
            assert (case.shown.offset_P > 0).all()
    assert targets == dataset.training_targets() > 0


def test_training_events_count_positives_of_the_training_period(dataset_folder: Path) -> None:
    events = Dataset.open(dataset_folder).training_events_I
    assert len(events) == made_world.ITEMS_COUNT
    assert events[0] == 0
    assert events[made_world.shown()].min() > 0
    assert events[made_world.ITEMS_COUNT // 2 + 1 :].sum() == 0


def test_select_keeps_whole_moments() -> None:
    one = np.arange(5, dtype=np.float32)
    occasions = Occasions(np.array([10, 20, 30]), np.array([0, 2, 2, 5]), np.arange(5, dtype=np.int32), one, one, one)
    kept = occasions.select(np.array([True, False, True]))
    assert kept.time_Q.tolist() == [10, 30]
    assert kept.items(1).tolist() == [2, 3, 4]
    assert occasions.select(np.array([False, True, False])).items(0).tolist() == []
    assert occasions.time_P.tolist() == [10, 10, 30, 30, 30]


def test_an_unfinished_dataset_is_an_error_that_names_the_step(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"prepare\.py"):
        Dataset.open(tmp_path)
