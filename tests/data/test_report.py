"""The data report."""

import json

import pyarrow as pa

from clm_ray.config.recipe import load_recipe
from clm_ray.data.log import Counts, Log
from clm_ray.data.report.short import make_report
from clm_ray.schema import ITEMS, USERS

COUNTS = Counts(
    read=1_005,
    kept=1_000,
    duplicates=2,
    rejected={"unparsable time": 1, "missing user_id": 2},
    types={"purchase": 900, "mail": 100},
    users=10,
    items=20,
    pairs=50,
    first_us=1_483_228_800_000_000,
    last_us=1_514_764_799_000_000,
    from_feedback=7,
    unlisted_items=3,
    tables={"missing item_id": 4},
    unread={"users.age": 5},
)


def report():
    bare = {"categories": [[]] * 31, "text": [""] * 31, "item_id": [str(i) for i in range(31)]}
    items = pa.table({f.name: pa.array(bare.get(f.name, [None] * 31), f.type) for f in ITEMS})
    log = Log(None, items, USERS.empty_table(), None, pa.table({}), COUNTS)  # type: ignore[arg-type]
    rates = {
        "train": {"targets": 80, "positives": 20, "rate": 0.25},
        "test": {"targets": 0, "positives": 0, "rate": None},
    }
    return make_report(load_recipe("complete_journey"), log, base_rates=rates)


def test_figures():
    found = report()
    assert found.density == 50 / 200
    assert found.catalogue == 30
    figures = json.loads(found.to_json())
    assert figures["counts"]["rejected"] == {"unparsable time": 1, "missing user_id": 2}
    assert figures["rejected_share"] == 3 / 1005
    assert (figures["from"], figures["to"]) == ("2017-01-01T00:00:00+00:00", "2017-12-31T23:59:59+00:00")
    assert figures["base_rates"]["train"] == {"targets": 80, "positives": 20, "rate": 0.25}


def test_everything_is_said_to_people():
    told = (
        "1,005",
        "1,000 (7 fed back)",
        "2017-01-01T00:00:00+00:00 to 2017-12-31T23:59:59+00:00",
        "10 with events",
        "20 with events, 30 in the catalogue",
        "25.0000%",
        "3 (0.30%)",
        "rejected: missing user_id",
        "dropped: duplicate",
        "events: purchase",
        "0.2500 (20 of 80 targets)",
        "no targets",
        "rejected in tables: missing item_id",
        "no number of use: users.age",
        "5 (count as missing)",
        "not in the catalogue",
    )
    for text in (report().to_text(), report().to_markdown()):
        for part in told:
            assert part in text
    assert report().to_markdown().startswith("# Data report: complete_journey")
    assert "| base rate: train | 0.2500 (20 of 80 targets) |" in report().to_markdown()


def test_reasons_come_biggest_first():
    text = report().to_text()
    assert text.index("missing user_id") < text.index("unparsable time")
