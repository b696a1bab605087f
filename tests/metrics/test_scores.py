"""Scores on bins, and their drift."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clm_ray.metrics.scores import EDGES, ScoreReference, count_scores


def scores(shift: float, *, seed: int = 0, n: int = 20_000) -> np.ndarray:
    return 1 / (1 + np.exp(-np.random.default_rng(seed).normal(-4 + shift, 1.5, n)))


@given(st.lists(st.floats(0, 1)))
def test_every_score_is_in_one_bin(values: list[float]) -> None:
    counts = count_scores(values)
    assert counts.sum() == len(values)
    assert len(counts) == len(EDGES) + 1


def test_weights_count_as_so_many_scores() -> None:
    assert (count_scores([0.2, 0.7], weight=[3, 1]) == count_scores([0.2, 0.2, 0.7, 0.2])).all()


def test_the_same_scores_do_not_drift_and_shifted_ones_do() -> None:
    reference = ScoreReference("valid", 10, {"given": count_scores(scores(0))})
    assert reference.drift("given", actual=count_scores(scores(0, seed=1))) < 0.01
    small, large = (reference.drift("given", actual=count_scores(scores(shift, seed=2))) for shift in (0.5, 1.5))
    assert 0.05 < small < 0.25 < large


def test_it_survives_json_and_refuses_other_bins() -> None:
    reference = ScoreReference("valid", 3, {"given": count_scores([0.1, 0.5]), "retrieved": count_scores([0.9])})
    again = ScoreReference.from_dict(reference.to_dict())
    assert (again.split, again.moments) == ("valid", 3)
    assert all((again.counts[kind] == reference.counts[kind]).all() for kind in ("given", "retrieved"))
    with pytest.raises(ValueError, match="another version"):
        ScoreReference.from_dict(reference.to_dict() | {"edges": (EDGES * 0.99).tolist()})
