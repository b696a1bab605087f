"""Small logs of a few users over six weeks, drawn by Hypothesis, and everything that features are computed from.

Times lie on full hours, so that many events share a moment, a day border or the moment of a question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.data.columns import rows_to_table
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.features.spec import FeatureSource
from clm_ray.features.statistics import ItemStatistics
from clm_ray.schema import DAY_US, EVENTS

HOUR_US = DAY_US // 24
START = 19_000 * DAY_US
DAYS = 42
TYPES: dict[str, dict[str, Any]] = {
    "purchase": {"roles": ["positive", "context", "activity"], "value": "amount"},
    "rating": {"roles": ["context", "activity"], "value": "rating", "positive_from": 4, "weight": 2.0},
    "skip": {"roles": ["negative", "context"], "weight": 0.5},
    "mail": {"roles": ["context"]},
    "login": {"roles": ["activity"]},
    "impression": {"roles": []},
}
ITEMS = ("", "apple", "bread", "cider", "dates", "eggs", "flour")
CATEGORIES: tuple[tuple[str, ...], ...] = (
    (),
    ("fruit",),
    ("bakery", "fresh"),
    (),
    ("fruit", "fresh"),
    ("fresh",),
    ("bakery",),
)
CATALOGUE = Catalogue.build(ITEMS, ITEMS, CATEGORIES)
USERS = ("u1", "u2", "u3")


class Row(NamedTuple):
    """One event. `item`: row of the catalogue, 0 for none; `number` makes the event id."""

    user: str
    time: int
    type: str
    item: int
    value: float | None = None
    slot: str | None = None
    decision: str | None = None
    number: int = 0


def recipe(**sections: dict[str, Any]) -> Recipe:
    """A recipe for these logs; `sections` replace or add sections."""
    raw: dict[str, Any] = {
        "name": "made",
        "source": {"kind": "files", "events": {"paths": ["none"]}},
        "event_types": TYPES,
        "split": {"protocol": "time", "train_end": "2022-01-23", "valid_end": "2022-01-28"},
        "impressions": {"negatives": "explicit", "attribution_hours": None},
        "retention": {"every_days": 3, "active_within_days": 14, "bin_ends": [1, 3, 7], "report_days": [3, 7]},
        "features": {"windows_days": [3, 14], "prior_strength": 4.0},
        "sequences": {"max_context": 5, "body": 3, "buckets": 2},
    }
    return recipe_from({**raw, **sections})


TRAIN_END, VALID_END = START + 15 * DAY_US, START + 20 * DAY_US
"""The recipe's dates: 2022-01-23 and 2022-01-28."""
VOCABULARY = EventVocabulary(recipe().event_types)


def moments(first_hour: int = 0, last_hour: int = DAYS * 24) -> st.SearchStrategy[int]:
    """Full hours after START."""
    return st.integers(first_hour, last_hour).map(lambda hour: START + hour * HOUR_US)


def rows(
    times: st.SearchStrategy[int],
    *,
    max_size: int = 30,
    slots: Sequence[str | None] = (None,),
    users: Sequence[str] = USERS,
    items: Sequence[int] = range(len(ITEMS)),
) -> st.SearchStrategy[list[Row]]:
    """Events of several users, in no order."""
    row = st.builds(
        Row,
        st.sampled_from(users),
        times,
        st.sampled_from([name for name in TYPES if name != "impression"]),
        st.sampled_from(items),
        st.one_of(st.none(), st.integers(0, 2000).map(lambda cents: cents / 100), st.sampled_from([1.0, 4.0, 5.0])),
        st.sampled_from(slots),
        decision=st.none(),
        number=st.just(0),
    )
    return st.lists(row, max_size=max_size).map(numbered)


def numbered(log: Iterable[Row]) -> list[Row]:
    """Rows with distinct numbers, kept where they have one."""
    return [row if row.number else row._replace(number=n + 1) for n, row in enumerate(log)]


def ordered(log: Iterable[Row]) -> list[Row]:
    """By user, time, event id."""
    return sorted(log, key=lambda row: (row.user, row.time, row.number))


def history_of(log: Iterable[Row]) -> History:
    """The history of one user's rows."""
    mine = ordered(log)
    return History(
        np.array([row.item for row in mine], np.int32),
        np.array([VOCABULARY.index[row.type] for row in mine], np.int16),
        np.array([np.nan if row.value is None else row.value for row in mine], np.float32),
        np.array([row.time for row in mine], np.int64),
    )


def label_of(row: Row) -> float | None:
    """The label that the recipe's event types give to a row, read from their meaning."""
    if not row.item:
        return None
    if row.type == "rating":
        return None if row.value is None else float(np.float32(row.value) >= 4)
    return {"purchase": 1.0, "skip": 0.0}.get(row.type)


def statistics_of(log: Iterable[Row]) -> ItemStatistics:
    """Dated statistics of all rows with a label."""
    daily: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0, 0.0])
    for row in log:
        label = label_of(row)
        if label is not None:
            sums = daily[row.item, row.time // DAY_US]
            sums[0] += 1
            sums[1] += label
            sums[2] += float(np.float32(row.value or 0.0))
            if row.type == "rating":
                sums[3] += 1
                sums[4] += float(np.float32(row.value))
    keys = np.array(list(daily), np.int32).reshape(-1, 2)
    sums = np.array(list(daily.values()), np.float64).reshape(-1, 5)
    return ItemStatistics.from_daily(keys[:, 0], keys[:, 1], *sums.T)


def source_of(log: Iterable[Row], made: Recipe | None = None) -> FeatureSource:
    """What features are computed from, with the statistics of the whole log."""
    return FeatureSource(made or recipe(), VOCABULARY, CATALOGUE, statistics_of(log))


def table_of(log: Iterable[Row]) -> pa.Table:
    """schema.EVENTS and `item`, sorted by user, time, event id."""
    mine = ordered(log)
    events = [
        {
            "event_id": f"{row.number:06d}",
            "user_id": row.user,
            "item_id": ITEMS[row.item] or None,
            "event_type": row.type,
            "timestamp": row.time,
            "value": row.value,
            "decision_id": row.decision,
            "context": [] if row.slot is None else [("slot", row.slot)],
        }
        for row in mine
    ]
    table = rows_to_table(events, EVENTS)
    return table.append_column("item", pa.array([row.item for row in mine], pa.int32()))
