"""What users choose at each stage: counted as of the moment of each choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clm_ray.config.recipe import recipe_from
from clm_ray.errors import StoreError
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.lifecycle.stages import Thresholds
from clm_ray.release.stage_choices import stage_choices, stage_orders
from clm_ray.schema import DAY_US, EVENTS

CATALOGUE = Catalogue.build(["", "a", "b", "c"], ["", "a", "b", "c"], [[], [], [], []])
THRESHOLDS = Thresholds(new_days=28.0, at_risk_days=14.0, churned_days=60.0, reactivated_days=28.0)
START = 17_000 * DAY_US
RECIPE = recipe_from(
    {
        "name": "shop",
        "source": {"kind": "files", "events": {"paths": ["unused.parquet"]}},
        "event_types": {
            "purchase": {"roles": ["positive", "context", "activity"], "value": "amount"},
            "view": {"roles": ["context", "activity"]},
        },
    }
)


def write(folder: Path, part: int, *rows: tuple[str, float, str, str]) -> None:
    (folder / "events").mkdir(exist_ok=True)
    table = [
        {
            "event_id": f"{part}-{n}",
            "user_id": user,
            "timestamp": START + round(day * DAY_US),
            "event_type": kind,
            "item_id": item,
            "value": 1.0,
        }
        for n, (user, day, kind, item) in enumerate(rows)
    ]
    filled = [{field.name: row.get(field.name) for field in EVENTS} for row in table]
    pq.write_table(pa.Table.from_pylist(filled, schema=EVENTS), folder / "events" / f"part-{part}.parquet")


def choices(folder: Path) -> pa.Table:
    vocabulary = EventVocabulary(RECIPE.event_types)
    return stage_choices(folder, catalogue=CATALOGUE, vocabulary=vocabulary, thresholds=THRESHOLDS)


def test_a_choice_counts_for_the_stage_that_its_user_was_in_before_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        0,
        ("ann", 0, "purchase", "a"),
        ("ann", 1, "purchase", "b"),
        ("ann", 2, "view", "c"),
        ("ann", 100, "purchase", "b"),
        ("ann", 101, "purchase", "b"),
    )
    write(tmp_path, 1, ("bob", 90, "purchase", "a"), ("bob", 90, "purchase", "c"), ("bob", 91, "purchase", "nowhere"))
    found = {(row["stage"], row["item"]): (row["lately"], row["ever"]) for row in choices(tmp_path).to_pylist()}
    assert found == {
        ("prospect", 1): (1, 2),
        ("prospect", 3): (1, 1),
        ("new", 2): (0, 1),
        ("churned", 2): (1, 1),
        ("reactivated", 2): (1, 1),
    }


def test_rows_come_by_what_the_stage_chose_lately_then_ever_then_by_what_is_popular(tmp_path: Path) -> None:
    write(
        tmp_path,
        0,
        *[(f"u{n}", 0.0, "purchase", "b") for n in range(3)],
        ("z", 100, "purchase", "c"),
    )
    orders = stage_orders(choices(tmp_path), popular_I=np.array([1, 2, 3], np.int32))
    assert orders["prospect"].tolist() == [3, 2, 1]
    assert "established" not in orders, "nobody chose anything then"


def test_a_dataset_without_events_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no events"):
        choices(tmp_path)
