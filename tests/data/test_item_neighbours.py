"""Item neighbours of a log: cosine by hand, slices, and that a slice holds nothing from its end on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from made_logs import DAY_US, START, Row, moments, numbered, rows, source_of, statistics_of, table_of

from clm_ray.config.data import NeighboursConfig
from clm_ray.data.neighbours import neighbours_of, opinions_before, opinions_of, similar_items, slice_ends
from clm_ray.features.neighbours import RELATIONS, tastes
from clm_ray.schema import NEIGHBOURS

END = START + 20 * DAY_US
LOGS = rows(moments(0, 24 * 25), max_size=60, users=tuple(f"u{n}" for n in range(6)))
CONFIG = NeighboursConfig(top=3, min_users=2, shrinkage=3.0)
SURPRISE, CHOICE = range(len(RELATIONS))


def opinions(log: Sequence[Row]) -> pa.Table:
    return opinions_of(table_of(log), source_of(log))


def built(
    log: Sequence[Row], relation: int, *, end: int = END, config: NeighboursConfig = CONFIG
) -> dict[tuple[int, int], float]:
    known = opinions(log)
    known = known.filter(pa.array(known.column("time").to_numpy() < end))
    table = similar_items(known, relation=relation, end=end, config=config)
    assert table.schema.equals(NEIGHBOURS)
    assert set(table.column("end").to_pylist()) <= {end}
    pairs = zip(table.column("item").to_pylist(), table.column("neighbour").to_pylist(), strict=True)
    return dict(zip(pairs, table.column("similarity").to_pylist(), strict=True))


def by_hand(log: Sequence[Row], relation: int, config: NeighboursConfig = CONFIG) -> dict[tuple[int, int], float]:
    """Similarity of every pair with users enough, before the best are chosen."""
    said: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in opinions(log).to_pylist():
        if row["time"] < END:
            said[row["item"]][row["user"]].append(row[RELATIONS[relation]])
    value = {
        item: {
            user: float(tastes(np.array(sum(v)))) if relation == CHOICE else sum(v) / len(v) for user, v in of.items()
        }
        for item, of in said.items()
        if len(of) >= config.min_users
    }
    norm = {item: math.sqrt(sum(v * v for v in of.values())) for item, of in value.items()}
    found = {}
    for one in value:
        for two in value:
            common = value[one].keys() & value[two].keys()
            if one == two or len(common) < config.min_users or not norm[one] * norm[two]:
                continue
            product = sum(value[one][user] * value[two][user] for user in common)
            found[one, two] = product / norm[one] / norm[two] * len(common) / (len(common) + config.shrinkage)
    return {pair: similarity for pair, similarity in found.items() if abs(similarity) > 5e-8}


@settings(max_examples=60)
@given(LOGS, st.sampled_from([SURPRISE, CHOICE]))
def test_similarities_are_cosines_shrunk_by_common_users(log: list[Row], relation: int) -> None:
    found, expected = built(log, relation), by_hand(log, relation)
    assert found.keys() <= expected.keys()
    for item in {one for one, _ in expected}:
        of_item = sorted((abs(s) for (one, _), s in expected.items() if one == item), reverse=True)
        mine = {pair: s for pair, s in found.items() if pair[0] == item}
        assert len(mine) == min(CONFIG.top, len(of_item))
        for pair, similarity in mine.items():
            assert math.isclose(similarity, expected[pair], rel_tol=1e-5, abs_tol=1e-6)
            assert abs(similarity) >= of_item[len(mine) - 1] - 1e-6


def test_what_everyone_likes_together_is_near_and_what_is_disliked_with_it_is_far() -> None:
    log = [Row(f"u{n}", START + n, "purchase", item) for n in range(4) for item in (1, 2)]
    log += [Row(f"u{n}", START + n, "skip", 3) for n in range(4)]
    found = built(numbered(log), CHOICE)
    assert math.isclose(found[1, 2], 4 / (4 + CONFIG.shrinkage), rel_tol=1e-6)
    assert math.isclose(found[1, 3], -4 / (4 + CONFIG.shrinkage), rel_tol=1e-6)


@settings(max_examples=40)
@given(LOGS, LOGS, st.randoms(use_true_random=False))
def test_a_slice_holds_nothing_from_its_end_on(past: list[Row], future: list[Row], random: object) -> None:
    early = [row for row in past if row.time < END]
    late = [row._replace(number=1000 + n) for n, row in enumerate(future) if row.time >= END]
    assert built(early, CHOICE) == built([*early, *late], CHOICE)
    assert built(early, SURPRISE) == built([*early, *late], SURPRISE)
    shuffled = list(early)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert built(early, CHOICE) == built(shuffled, CHOICE)


def test_slices_end_at_midnights_that_share_out_the_events_and_after_the_log() -> None:
    log = numbered([Row("u1", START + day * DAY_US + 5, "purchase", 1) for day in (0, 1, 1, 1, 2, 9)])
    last = max(row.time for row in log)
    ends = slice_ends(statistics_of(log), NeighboursConfig(slices=3), log_end=last)
    assert ends == [START + 2 * DAY_US, last + 1]  # both thirds lie in the second day
    assert slice_ends(statistics_of(log), NeighboursConfig(slices=6), log_end=last) == [
        *(START + d * DAY_US for d in (1, 2, 3)),
        last + 1,
    ]
    assert slice_ends(statistics_of(log), NeighboursConfig(slices=1), log_end=last) == [last + 1]
    assert slice_ends(statistics_of([]), NeighboursConfig(slices=4), log_end=last) == [last + 1]


@settings(max_examples=40)
@given(LOGS, LOGS)
def test_slices_by_days_stay_where_they_are_when_the_log_grows(past: list[Row], future: list[Row]) -> None:
    config = NeighboursConfig(slices=1, slice_days=3)
    early = [row for row in past if row.time < END]
    late = [row for row in future if row.time >= END]
    if not early:
        return
    ends = []
    for log in (early, [*early, *late]):
        last = max(row.time for row in log)
        found = slice_ends(statistics_of(log), config, log_end=last)
        assert found[-1] == last + 1
        assert all(end % (3 * DAY_US) == 0 for end in found[:-1])
        ends.append([end for end in found[:-1] if end <= max(row.time for row in early)])
    assert ends[0] == ends[1] or not len(statistics_of(early).item_K)


def test_slices_by_days_follow_each_other_without_a_hole() -> None:
    log = numbered([Row("u1", START + day * DAY_US + 5, "purchase", 1) for day in (0, 13)])
    last = max(row.time for row in log)
    *ends, _ = slice_ends(statistics_of(log), NeighboursConfig(slice_days=3), log_end=last)
    assert set(np.diff(ends)) == {3 * DAY_US}
    assert START < ends[0] <= START + 3 * DAY_US
    assert last - 3 * DAY_US < ends[-1] <= last


def test_a_bucket_without_users_has_no_opinions() -> None:
    """Ray Data passes an empty block on as it is: without the columns that the function would give it."""
    log = numbered([Row("u1", START + 5, "purchase", 1)])
    empty = table_of([])
    assert opinions_before(END, [empty, opinions(log), empty]).equals(opinions(log))
    assert opinions_before(END, [empty]).num_rows == 0


def test_a_table_is_read_as_it_was_written() -> None:
    log = numbered([Row(f"u{n}", START + n, "purchase", item) for n in range(4) for item in (1, 2, 4)])
    table = similar_items(opinions(log), relation=CHOICE, end=END, config=CONFIG)
    found = neighbours_of(table)
    query, neighbour, _ = found.choice.explode(np.zeros(2, np.int64), np.array([1, 3], np.int32))
    assert (query.tolist(), neighbour.tolist()) == ([0, 0], [2, 4])
    assert found.slice_of(np.array([END - 1, END])).tolist() == [-1, 0]
