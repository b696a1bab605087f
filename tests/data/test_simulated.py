"""The made log: sizes as asked, the same again, and with what is said to be in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clm_ray.data import simulated
from clm_ray.data.simulated import Simulation, simulated_events, simulated_items
from clm_ray.schema import DAY_US

MADE = Simulation(events=20_000, users=500, items=1_000, days=200)


def _whole(made: Simulation) -> pa.Table:
    return pa.concat_tables([simulated_events(made, part) for part in range(made.parts)])


def test_the_same_options_make_the_same_log_and_another_seed_another_one() -> None:
    assert simulated_events(MADE, 0).equals(simulated_events(MADE, 0))
    assert not simulated_events(replace(MADE, seed=1), 0).equals(simulated_events(MADE, 0))


def test_parts_have_every_event_and_no_user_in_common() -> None:
    made = replace(MADE, events_per_part=3_000)
    parts = [simulated_events(made, part) for part in range(made.parts)]
    assert len(parts) == 7
    assert sum(part.num_rows for part in parts) == MADE.events
    users = [set(part.column("user_id").to_pylist()) for part in parts]
    assert sum(len(some) for some in users) == len(set.union(*users)) <= MADE.users
    assert not parts[0].column("timestamp").equals(parts[1].column("timestamp"))


def test_times_lie_in_the_days_asked_for_and_users_come_and_go() -> None:
    events = _whole(MADE)
    time = events.column("timestamp").cast(pa.int64()).to_numpy()
    assert time.min() >= simulated._START_US
    assert time.max() < simulated._START_US + MADE.days * DAY_US
    assert (np.diff(time) >= 0).all()
    span = events.group_by("user_id").aggregate([("timestamp", "min"), ("timestamp", "max")])
    first, last = (span.column(f"timestamp_{which}").cast(pa.int64()).to_numpy() for which in ("min", "max"))
    assert np.ptp(first) > 0.8 * MADE.days * DAY_US
    assert np.mean(last < time.max() - 30 * DAY_US) > 0.3, "most users have left before the end"


def test_popular_items_have_most_events_and_a_user_a_favourite_category() -> None:
    events, items = _whole(MADE), simulated_items(MADE)
    number = np.array([int(i[1:]) for i in events.column("item_id").to_pylist()])
    counts = np.sort(np.bincount(number, minlength=MADE.items))[::-1]
    assert counts[:100].sum() > 0.4 * MADE.events
    category = items.column("category").take(pc.index_in(events.column("item_id"), value_set=items.column("item_id")))
    table = pa.table({"user": events.column("user_id"), "category": category})
    most = (
        table.group_by(["user", "category"])
        .aggregate([([], "count_all")])
        .group_by("user")
        .aggregate([("count_all", "max")])
    )
    assert pc.sum(most.column("count_all_max")).as_py() > 0.5 * MADE.events


def test_only_purchases_have_a_value_and_it_is_the_price() -> None:
    events, items = _whole(MADE), simulated_items(MADE)
    bought = pc.equal(events.column("event_type"), "purchase")
    assert events.filter(pc.invert(bought)).column("value").null_count == events.num_rows - pc.sum(bought).as_py()
    price = items.column("price").take(pc.index_in(events.column("item_id"), value_set=items.column("item_id")))
    assert events.filter(bought).column("value").equals(price.filter(bought))
