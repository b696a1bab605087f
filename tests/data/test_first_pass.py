"""What the build knows of the whole log: daily sums that come in parts."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest
from made_logs import START, Row, recipe, table_of

from clm_ray.data import first_pass
from clm_ray.features.events import EventVocabulary
from clm_ray.features.statistics import STATISTICS


def test_what_a_block_says_does_not_grow_with_its_events_where_no_rows_are_asked_for() -> None:
    vocabulary = EventVocabulary(recipe().event_types)
    sizes = []
    for events in (50, 5_000):
        log = [Row(f"u{n}", START + n, "purchase", 1 + n % 3, 1.0, number=n) for n in range(events)]
        sizes.append(len(pickle.dumps(first_pass._summarise(table_of(log), vocabulary, rows=False))))
    assert sizes[1] < 1.5 * sizes[0]


def part(seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    sums = {name: random.integers(0, 50, 40).astype(np.float64) for name in STATISTICS[2:]}
    table = pa.table({"item": random.integers(1, 9, 40), "day": random.integers(0, 5, 40), **sums})
    return first_pass._Daily.of(table).sums()


@pytest.mark.parametrize("together", [1, 60, 10_000])
def test_parts_added_up_a_few_at_a_time_give_the_sums_of_all(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setattr(first_pass, "_TOGETHER", together)
    parts = [part(seed) for seed in range(12)]
    found = first_pass._Daily()
    for one in parts:
        found.add(one)
        held = sum(table.num_rows for table in found._parts)
        assert held <= together + 8 * 5 + 40, "what is held does not grow with the number of parts"
    whole = first_pass._Daily.of(pa.concat_tables(parts)).sums()
    order = [("item", "ascending"), ("day", "ascending")]
    assert found.sums().sort_by(order).equals(whole.sort_by(order))
