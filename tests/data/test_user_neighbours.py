"""User neighbours of a log: cosine by hand, that a slice holds nothing from its end on, and that buckets do not show."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_logs import DAY_US, START, Row, moments, numbered, rows, source_of, table_of

from clm_ray.config.data import NeighboursConfig
from clm_ray.data.buckets import bucket_of
from clm_ray.data.neighbours import opinions_before, opinions_of
from clm_ray.data.user_neighbours import UserIds, similar_users
from clm_ray.features.neighbours import RELATIONS
from clm_ray.schema import USER_NEIGHBOURS

END = START + 20 * DAY_US
USERS = tuple(f"u{n}" for n in range(6))
LOGS = rows(moments(0, 24 * 25), max_size=60, users=USERS)
CONFIG = NeighboursConfig(users=3, min_users=2, shrinkage=3.0)
SURPRISE, CHOICE = range(len(RELATIONS))
IDS = UserIds.of(pa.array(USERS))


def built(blocks: Sequence[pa.Table], relation: int, **bucket: int) -> pa.Table:
    known = opinions_before(END, blocks)
    table = similar_users(known, IDS, relation=relation, end=END, config=CONFIG, **bucket)
    assert table.schema.equals(USER_NEIGHBOURS)
    return table


def opinions(log: Sequence[Row]) -> pa.Table:
    return opinions_of(table_of(log), source_of(log))


def pairs(table: pa.Table) -> dict[tuple[str, str], float]:
    both = zip(table.column("user_id").to_pylist(), table.column("neighbour_id").to_pylist(), strict=True)
    return dict(zip(both, table.column("similarity").to_pylist(), strict=True))


@settings(max_examples=40)
@given(LOGS)
def test_similarities_are_cosines_over_the_items_of_both_shrunk_by_them(log: list[Row]) -> None:
    known = opinions(log)
    name_of = dict(zip(IDS.hash_U.tolist(), IDS.id_U.to_pylist(), strict=True))
    said: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in known.to_pylist():
        if row["time"] < END:
            said[row["item"]][name_of[row["user"]]].append(row["surprise"])
    value: dict[str, dict[int, float]] = defaultdict(dict)
    for item, of in said.items():
        if len(of) >= CONFIG.min_users:
            for user, values in of.items():
                value[user][item] = sum(values) / len(values)
    norm = {user: math.sqrt(sum(v * v for v in of.values())) for user, of in value.items()}
    found = pairs(built([known], SURPRISE))
    for (one, two), similarity in found.items():
        common = value[one].keys() & value[two].keys()
        assert one != two
        assert len(common) >= CONFIG.min_users
        product = sum(value[one][item] * value[two][item] for item in common)
        expected = product / norm[one] / norm[two] * len(common) / (len(common) + CONFIG.shrinkage)
        assert math.isclose(similarity, expected, rel_tol=1e-5, abs_tol=1e-6)
    assert all(sum(user == one for one, _ in found) <= CONFIG.users for user in USERS)


def test_who_chooses_alike_is_near_and_who_rejects_it_is_far() -> None:
    log = [Row(user, START + n, "purchase", item) for n, user in enumerate(("u1", "u2")) for item in (1, 2, 3)]
    log += [Row("u3", START + 9, "skip", item) for item in (1, 2, 3)]
    found = pairs(built([opinions(numbered(log))], CHOICE))
    assert math.isclose(found["u1", "u2"], 3 / (3 + CONFIG.shrinkage), rel_tol=1e-6)
    assert math.isclose(found["u1", "u3"], -3 / (3 + CONFIG.shrinkage), rel_tol=1e-6)


@settings(max_examples=40)
@given(LOGS, LOGS)
def test_a_slice_holds_nothing_from_its_end_on(past: list[Row], future: list[Row]) -> None:
    early = [row for row in past if row.time < END]
    late = [row._replace(number=1000 + n) for n, row in enumerate(future) if row.time >= END]
    for relation in (SURPRISE, CHOICE):
        assert built([opinions(early)], relation).equals(built([opinions([*early, *late])], relation))


@settings(max_examples=40)
@given(LOGS, st.randoms(use_true_random=False))
def test_the_order_of_blocks_and_the_number_of_buckets_do_not_show(log: list[Row], random: object) -> None:
    known = opinions(log)
    blocks = [known.filter(pa.array(known.column("user").to_numpy() % 3 == n)) for n in range(3)]
    whole = built(blocks, SURPRISE)
    random.shuffle(blocks)  # type: ignore[attr-defined]
    assert built(blocks, SURPRISE).equals(whole)
    parts = [built(blocks, SURPRISE, bucket=b, buckets=2) for b in range(2)]
    for bucket, mine in enumerate(parts):
        assert set(bucket_of(mine.column("user_id"), 2).tolist()) <= {bucket}
    joined = pa.concat_tables(parts).sort_by([("user_id", "ascending"), ("neighbour_id", "ascending")])
    assert joined.combine_chunks().equals(whole.combine_chunks())


def test_user_neighbours_need_slices() -> None:
    with pytest.raises(ValueError, match="users needs slices"):
        NeighboursConfig(slices=0, users=5)
