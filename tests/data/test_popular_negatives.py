"""What is learned from popular negatives, and what it is tested with, in a world where everybody chooses alike and the chances are known.

Shape letters: I items, N targets.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from made_logs import START, VOCABULARY, recipe
from numpy.typing import NDArray

from clm_ray.data.evaluation_sample import HeldOutOccasion, HeldOutSample, impression_rows, with_candidates
from clm_ray.data.occasions import Occasion, OccasionSource
from clm_ray.data.popularity import PopularityDraw
from clm_ray.data.slots import SlotTable
from clm_ray.features.statistics import ItemStatistics
from clm_ray.model.recommender import ClickTargets, click_loss
from clm_ray.schema import DAY_US

ITEM_I = np.arange(1, 7, dtype=np.int32)
CHANCE_I = np.geomspace(1, 100, 6) / np.geomspace(1, 100, 6).sum()
"""Of being chosen: hundredfold from the first item to the last, from day to day the same."""
EVENTS_I = np.round(np.geomspace(1, 100, 6) ** 2)
"""Such that the root of popularity is in proportion to the chances: every item is chosen as often as it is drawn, and lift says nothing."""
MOMENT, OCCASIONS = START + DAY_US, 12_000


def world(*, per_occasion: int, test_negatives: int = 200) -> OccasionSource:
    day, none = np.full(len(ITEM_I), START // DAY_US, np.int32), np.zeros(len(ITEM_I))
    config = {"negatives": "popularity", "per_occasion": per_occasion, "test_negatives": test_negatives}
    impressions = recipe(impressions=config).impressions
    draw = PopularityDraw(ItemStatistics.from_daily(ITEM_I, day, EVENTS_I, none, none), 0.5, per_occasion)
    return OccasionSource(impressions, VOCABULARY, SlotTable.empty(), draw, None, 0)


def chosen(count: int = OCCASIONS) -> list[Occasion]:
    item_Q = np.random.default_rng(0).choice(ITEM_I, (count, 1), p=CHANCE_I)
    return [Occasion(MOMENT, "popularity", item, item, None, 1.0) for item in item_Q]


def learned(item_N: NDArray[np.int32], label_N: NDArray[np.float32], offset_N: NDArray[np.float32]) -> torch.Tensor:
    """[I]: one logit for each item, as low as the click loss gets."""
    target = [torch.from_numpy(values)[None] for values in (item_N.astype(np.int64), label_N, offset_N)]
    item_1N, label_1N, offset_1N = target
    ones, none = torch.ones_like(label_1N), torch.zeros_like(item_1N)
    targets = ClickTargets(none, item_1N, none[..., None], label_1N, ones, offset_1N, 0 * ones, 0 * ones, none)
    logit_I = torch.zeros(len(ITEM_I), requires_grad=True)
    optimiser = torch.optim.LBFGS([logit_I], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        found = click_loss(logit_I[item_1N - 1].unsqueeze(-1), targets) / len(item_N)
        found.backward()
        return found

    optimiser.step(loss)
    return logit_I.detach()


@pytest.mark.slow
@pytest.mark.parametrize("per_occasion", [1, 4])
def test_what_is_learned_orders_items_by_how_likely_they_are_taken(per_occasion: int) -> None:
    source = world(per_occasion=per_occasion)
    parts = [source.sampled(f"u{n}", occasion) for n, occasion in enumerate(chosen())]
    item_N, label_N, offset_N = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("item_T", "label_T", "offset_T")
    )
    logit_I = learned(item_N, label_N, offset_N).numpy()
    assert (np.argsort(logit_I) == np.arange(len(ITEM_I))).all()
    # Odds beside negatives drawn evenly; the rarest item is chosen some 70 times, so its logit is off by 0.12 or so.
    np.testing.assert_allclose(logit_I, np.log(CHANCE_I / (1 - CHANCE_I) / (per_occasion / len(ITEM_I))), atol=0.5)
    uncorrected_I = learned(item_N, label_N, np.zeros_like(offset_N)).numpy()
    assert np.ptp(logit_I[:3]) > 1.4 > 0.5 > np.ptp(uncorrected_I[:3]), "without the offset these would be all alike"


@pytest.mark.parametrize(("per_occasion", "test_negatives"), [(1, 3), (2, 2), (4, 3), (3, 200), (9, 2), (9, 200)])
def test_test_occasions_have_even_negatives_and_an_offset_that_fits_the_probabilities(
    per_occasion: int, test_negatives: int
) -> None:
    source = world(per_occasion=per_occasion, test_negatives=test_negatives)
    shown = [HeldOutOccasion(rank, "u", occasion) for rank, occasion in enumerate(chosen(4000))]
    config = recipe(impressions=source.config.model_dump())
    rows = impression_rows(with_candidates(HeldOutSample(shown, []), config, source))
    kept = min(test_negatives, 5)
    assert {len(row["item"]) for row in rows} == {1 + kept}
    [offset] = {row["offset"] for row in rows}
    served_I = np.log(CHANCE_I / (1 - CHANCE_I) / min(1, per_occasion / len(ITEM_I)))
    drawn = Counter(item for row in rows for item in row["item"].tolist())
    taken = Counter(item for row in rows for item in row["item"][row["label"] == 1].tolist())
    for item, logit in zip(ITEM_I.tolist(), served_I.tolist(), strict=True):
        # Four standard errors of a share.
        others, share = len(rows) - taken[item], kept / 5
        assert abs((drawn[item] - taken[item]) / others - share) <= 4 * (share * (1 - share) / others) ** 0.5
        rate = 1 / (1 + np.exp(-logit - offset))
        assert abs(taken[item] / drawn[item] - rate) < 4 * (rate * (1 - rate) / drawn[item]) ** 0.5


def test_only_the_days_before_have_a_say_in_shares() -> None:
    item, day = np.array([1, 2, 1, 2], np.int32), START // DAY_US + np.array([0, 0, 1, 2], np.int32)
    none = np.zeros(4)
    full = ItemStatistics.from_daily(item, day, np.array([1.0, 3.0, 50.0, 70.0]), none, none)
    early = ItemStatistics.from_daily(item[:2], day[:2], np.array([1.0, 3.0]), none[:2], none[:2])
    for statistics in (full, early):
        draw = PopularityDraw(statistics, 1.0, 1)
        assert draw.known(START).tolist() == []
        assert len(draw.draw(START, but=ITEM_I[:0], rng=np.random.default_rng(0))) == 0
        assert draw.shares(START + DAY_US, ITEM_I[:2]).tolist() == [0.25, 0.75]
