"""How many windows make a step, and how often they are passed over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clm_ray.config.train import TrainConfig
from clm_ray.train.schedule import FEWEST_WINDOWS, Schedule


def plan(windows: int, **config: int) -> Schedule:
    return Schedule.plan(TrainConfig(**config), windows)


def test_a_large_dataset_is_cut_as_the_recipe_says() -> None:
    assert plan(9_568, windows_per_step=32, epochs=2, min_steps=200) == Schedule(32, 299, 2)


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        (1000, Schedule(15, 67, 3)),  # smaller steps
        (120, Schedule(4, 30, 7)),  # as small as a step may be, and more epochs
        (3, Schedule(4, 1, 200)),
    ],
)
def test_a_small_one_is_cut_into_smaller_steps_then_passed_over_more_often(windows: int, expected: Schedule) -> None:
    for workers in (1, 2, 7):
        found = plan(windows, windows_per_step=32, epochs=3, min_steps=200, num_workers=workers)
        assert found == expected, "the global batch does not depend on the number of workers"


@given(st.integers(1, 10**6), st.integers(1, 64), st.integers(1, 20), st.integers(1, 1000))
def test_every_plan_has_its_steps_and_never_more_per_step_than_asked(
    windows: int, size: int, epochs: int, least: int
) -> None:
    found = plan(windows, windows_per_step=size, epochs=epochs, min_steps=least)
    assert found.total >= least
    assert found.epochs >= epochs
    assert 1 <= found.windows_per_step <= size
    assert (found.steps - 1) * found.windows_per_step < windows <= found.steps * found.windows_per_step
    if found.windows_per_step < size and found.epochs > epochs:
        assert found.windows_per_step <= FEWEST_WINDOWS
