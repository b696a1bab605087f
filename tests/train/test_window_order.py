"""Which windows make up which step: a function of the seed, the epoch and the step, whoever asks and from wherever."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_shop import make_shop

from clm_ray.data.columns import ragged
from clm_ray.schema import TEST, TRAIN, VALID
from clm_ray.train.windows import CHUNKS_SHUFFLED, Windows, WindowSet, open_windows

Key = tuple[str, bytes, bytes]
STEP = 5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    make_shop().write(folder, parts=3, rows_per_group=4)
    return folder


@pytest.fixture(scope="module")
def windows(dataset: Path) -> WindowSet:
    found = open_windows(dataset, TRAIN)
    assert len(found.chunks) > CHUNKS_SHUFFLED, "else there would be only one run of chunks"
    return found


def _keys(windows: Windows) -> list[Key]:
    return [
        (user, context["time"].tobytes(), target["time"].tobytes())
        for user, context, target in zip(windows.user, windows.context, windows.target, strict=True)
    ]


def _epoch(
    windows: WindowSet, *, seed: int = 0, epoch: int = 0, first_step: int = 0, shuffle: bool = True
) -> list[tuple[int, list[Key]]]:
    steps = windows.batches(STEP, seed=seed, epoch=epoch, shuffle=shuffle, first_step=first_step)
    return [(step, _keys(batch)) for step, batch in steps]


def _all_of(split: int) -> list[Key]:
    """Every window with a target or reference of the split, in file order."""
    table = make_shop().windows
    splits = {name: ragged(table.column(name)) for name in ("tgt_split", "ref_split")}
    has = np.zeros(table.num_rows, bool)
    for values, offsets in splits.values():
        has |= [bool((values[a:b] == split).any()) for a, b in itertools.pairwise(offsets)]
    every = _keys(Windows.of(table, split))
    assert 0 < has.sum() < table.num_rows
    return [key for key, wanted in zip(every, has, strict=True) if wanted]


@pytest.mark.parametrize("shuffle", [True, False])
def test_each_window_comes_once_per_epoch(windows: WindowSet, shuffle: bool) -> None:
    steps = _epoch(windows, shuffle=shuffle)
    seen = [key for _, keys in steps for key in keys]
    assert [step for step, _ in steps] == list(range(windows.steps(STEP)))
    assert all(len(keys) == STEP for _, keys in steps[:-1])
    assert len(windows) % STEP == len(steps[-1][1]) != 0
    assert sorted(seen) == sorted(_all_of(TRAIN))
    assert (seen == _all_of(TRAIN)) != shuffle


def test_the_order_is_a_function_of_seed_and_epoch(dataset: Path, windows: WindowSet) -> None:
    assert _epoch(windows, seed=3, epoch=1) == _epoch(open_windows(dataset, TRAIN), seed=3, epoch=1)
    orders = [_epoch(windows, seed=seed, epoch=epoch) for seed, epoch in ((3, 1), (3, 2), (4, 1))]
    assert all(a != b for a, b in zip(orders, orders[1:] + orders[:1], strict=True))


def test_an_epoch_can_be_taken_up_at_any_step(windows: WindowSet) -> None:
    whole = _epoch(windows, seed=1, epoch=2)
    for first in range(len(whole) + 1):
        assert _epoch(windows, seed=1, epoch=2, first_step=first) == whole[first:]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_the_shares_of_the_ranks_are_the_global_batch(windows: WindowSet, world: int) -> None:
    for _, batch in windows.batches(STEP, seed=0, epoch=0, shuffle=True):
        shares = [_keys(batch.share(rank, world)) for rank in range(world)]
        assert sorted(key for share in shares for key in share) == sorted(_keys(batch))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_shares_of_the_ranks_are_of_like_size(windows: WindowSet) -> None:
    for _, batch in windows.batches(4 * STEP, seed=0, epoch=0, shuffle=True):
        size_B = [len(c["item"]) + len(t["item"]) for c, t in zip(batch.context, batch.target, strict=True)]
        assert size_B == sorted(size_B, reverse=True)
        shares = [sum(size_B[rank::2]) for rank in range(2)]
        assert 0 <= shares[0] - shares[1] <= size_B[0]


@pytest.mark.parametrize("split", [TRAIN, VALID])
def test_only_targets_and_references_of_the_split_are_handed_out(dataset: Path, split: int) -> None:
    windows = open_windows(dataset, split)
    counted = 0
    for _, batch in windows.batches(STEP, seed=0, epoch=0, shuffle=False):
        for target, reference in zip(batch.target, batch.reference, strict=True):
            assert set(target["split"]) | set(reference["split"]) == {split}
            assert len(target["pos"]) == len(target["dense"]) == len(target["time"])
            counted += len(target["split"])
    table = make_shop().windows
    assert counted == int((ragged(table.column("tgt_split"))[0] == split).sum())


def test_a_split_without_windows_is_empty(dataset: Path) -> None:
    windows = open_windows(dataset, TEST)
    assert len(windows) == windows.steps(STEP) == 0
    assert list(windows.batches(STEP, seed=0, epoch=0, shuffle=True)) == []


def test_a_share_of_the_users_is_the_same_users_whatever_the_share(dataset: Path, windows: WindowSet) -> None:
    def users(share: float) -> set[str]:
        found = open_windows(dataset, TRAIN, user_share=share)
        return {user for _, batch in found.batches(STEP, seed=0, epoch=0, shuffle=False) for user in batch.user}

    some, more, everyone = users(0.3), users(0.7), users(1.0)
    assert set() < some < more < everyone
    assert everyone == {key[0] for _, keys in _epoch(windows) for key in keys}


def test_the_places_of_a_step_are_where_its_windows_lie(dataset: Path, windows: WindowSet) -> None:
    for step, batch in windows.batches(STEP, seed=1, epoch=2, shuffle=True):
        found = []
        for place in windows.places(STEP, seed=1, epoch=2, step=step):
            part, group, row = place.split("/")
            table = pq.ParquetFile(dataset / "sequences" / f"{part}.parquet").read_row_group(int(group))
            found.append((table.column("user_id")[int(row)].as_py(), table.column("window")[int(row)].as_py()))
        assert sorted(found) == sorted(zip(batch.user, batch.number, strict=True))
