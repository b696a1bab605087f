"""The scores that a release is expected to give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_world
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clm_ray.config.recipe import Recipe
from clm_ray.evaluate.dataset import Dataset
from clm_ray.evaluate.reference import score_reference
from clm_ray.model.inference import UserRequest, UserState
from clm_ray.schema import TRAIN, VALID


class NotingScorer(made_world.KnowingScorer):
    """Remembers the moments that it was asked about."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.asked: list[int] = []

    def states(self, requests: Sequence[UserRequest]) -> list[UserState]:
        self.asked += [request.time for request in requests]
        return super().states(requests)


@pytest.fixture
def dataset(dataset_folder: Path) -> Dataset:
    return Dataset.open(dataset_folder)


def referenced(dataset: Dataset, *, moments: int) -> tuple[Any, list[int]]:
    scorer = NotingScorer(made_world.recipe())
    found = score_reference(dataset, scorer, moments=moments)  # type: ignore[arg-type]
    assert found is not None
    return found, scorer.asked


def test_a_dataset_without_validation_gives_its_newest_training_moments(dataset: Dataset) -> None:
    found, asked = referenced(dataset, moments=16)
    assert (found.split, found.moments) == ("train", len(asked))
    times = [t for b in dataset.buckets for c in dataset.target_cases(b, split=TRAIN) for t in c.shown.time_Q]
    assert min(asked) >= np.quantile(times, 0.8)


def test_validation_moments_come_first(dataset: Dataset, tmp_path: Path) -> None:
    cut = made_world.START + 60 * made_world.DAY_US
    for name in ("events", "sequences"):
        (tmp_path / name).mkdir()
        for path in (dataset.folder / name).iterdir():
            table = pq.read_table(path)
            if name == "sequences":
                late = [[VALID if t >= cut else s for t, s in zip(*row, strict=True)] for row in _rows(table)]
                place = table.column_names.index("tgt_split")
                table = table.set_column(place, "tgt_split", pa.array(late, table.schema.field("tgt_split").type))
            pq.write_table(table, tmp_path / name / path.name)
    found, asked = referenced(replace(dataset, folder=tmp_path), moments=10)
    assert (found.split, found.moments) == ("valid", 10)
    assert min(asked) >= cut


def _rows(table: pa.Table) -> list[tuple[list[int], list[int]]]:
    return list(zip(*(table.column(name).to_pylist() for name in ("tgt_time", "tgt_split")), strict=True))


def test_a_sampled_negative_counts_for_all_that_it_stands_for_and_a_retrieved_item_once(dataset: Dataset) -> None:
    found, asked = referenced(dataset, moments=8)
    expected = 0.0
    for case in (c for b in dataset.buckets for c in dataset.target_cases(b, split=TRAIN)):
        moment_P = np.isin(case.shown.time_P, asked)
        stands_P = np.where(case.shown.label_P > 0, 1.0, np.exp(case.shown.offset_P))
        expected += float((case.shown.weight_P * stands_P)[moment_P].sum())
    assert found.counts["given"].sum() == pytest.approx(expected, rel=1e-3)
    assert found.counts["retrieved"].sum() == found.moments * (made_world.ITEMS_COUNT - 1)


def test_the_same_dataset_gives_the_same_reference(dataset: Dataset) -> None:
    assert referenced(dataset, moments=8)[0].to_dict() == referenced(dataset, moments=8)[0].to_dict()
