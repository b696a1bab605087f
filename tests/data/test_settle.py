"""The shuffle: every row to its bucket, and event ids as if all rows had been in one block."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import ray

from clm_ray.config.recipe import recipe_from
from clm_ray.data.clean import ROW, clean_rows, rules_of
from clm_ray.data.duplicates import settle_ids
from clm_ray.data.settle import by_bucket, settle

pytestmark = pytest.mark.ray
NOW_US = round(dt.datetime(2024, 6, 1, tzinfo=dt.UTC).timestamp() * 1e6)


def log(rows: int, *, buckets: int, ids: int, seed: int = 0) -> pa.Table:
    """Random events of which some bring an id (`ids` of them, shared by any users), some repeat and some are broken."""
    rng = np.random.default_rng(seed)
    recipe = recipe_from(
        {
            "name": "t",
            "source": {"kind": "files", "events": {"paths": ["x"]}},
            "event_types": {"buy": {"roles": ["positive", "context", "activity"]}},
            "sequences": {"buckets": buckets},
        }
    )
    given = rng.integers(0, max(ids, 1), rows)
    raw = pa.table(
        {
            "user_id": pa.array([f"u{n}" for n in rng.integers(0, 40, rows)]),
            "item_id": pa.array(np.where(rng.random(rows) < 0.05, None, [f"i{n}" for n in rng.integers(0, 3, rows)])),
            "event_type": pa.repeat("buy", rows),
            "timestamp": pa.array(1_700_000_000 + rng.integers(0, 3, rows)),
            "event_id": pa.array([f"e{n}" if ids and n % 3 else None for n in given], pa.string()),
            ROW: np.arange(1, rows + 1),
        }
    )
    return clean_rows(raw, rules=rules_of(recipe, now_us=NOW_US), file=0)


@pytest.mark.parametrize(("buckets", "blocks"), [(1, 3), (4, 1), (7, 5)])
@pytest.mark.parametrize("ids", [0, 60, 3])
def test_ids_are_settled_as_in_one_block(ray_session: None, buckets: int, blocks: int, ids: int) -> None:
    whole = log(600, buckets=buckets, ids=ids)
    cut = [whole.slice(start, -(-600 // blocks)) for start in range(0, 600, -(-600 // blocks))]
    found = ray.get(settle(by_bucket([(ray.data.from_arrow(cut), None)], buckets=buckets), ids_given=ids > 0))
    assert len(found) == buckets
    for bucket, block in enumerate(found):
        assert set(block.column("bucket").to_pylist()) <= {bucket}
    columns = ["event_id", "user_id", "item_id", "timestamp", "reason"]

    def plain(table: pa.Table) -> Counter[str]:
        return Counter(map(str, table.select(columns).to_pylist()))

    assert plain(pa.concat_tables(found)) == plain(settle_ids(whole))
    if ids:
        reasons = Counter(pa.concat_tables(found).column("reason").to_pylist())
        assert reasons["event_id used twice"] > 50, "ids of different users meet"


def test_small_blocks_are_split_together(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = log(200, buckets=3, ids=0)
    cut = [whole.slice(n, 1) for n in range(200)]
    results = [
        pa.concat_tables(ray.get(settle(by_bucket([(ray.data.from_arrow(cut), None)], buckets=3), ids_given=False)))
        for part_bytes in (1 << 20, 1)
        if monkeypatch.setattr("clm_ray.data.settle._PART_BYTES", part_bytes) is None
    ]
    one, other = (Counter(map(str, r.drop_columns(["file"]).to_pylist())) for r in results)
    assert one == other
    assert sum(one.values()) == 200
