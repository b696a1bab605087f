"""docs/bring-your-own-log.md, done as it says."""

import datetime as dt
import re
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from clm_ray.config.recipe import load_recipe
from clm_ray.config.workspace import Workspace
from clm_ray.data import clean
from clm_ray.data.log import Log, read_log
from clm_ray.errors import QuarantineError, SchemaError

PAGE = Path(__file__).parents[2] / "docs" / "bring-your-own-log.md"
NOW_US = round(dt.datetime(2024, 7, 1, tzinfo=dt.UTC).timestamp() * 1e6)


@pytest.fixture
def blocks(tmp_path, monkeypatch) -> dict[str, str]:
    """The page's named code blocks; those that are files lie in the current folder."""
    found = dict(re.findall(r"^```\w+ ([^\n]+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S))
    monkeypatch.chdir(tmp_path)
    for name, content in found.items():
        if not name.startswith("error "):
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(content, encoding="utf-8")
    return found


def read(*overrides: str) -> Log:
    return read_log(
        load_recipe("shop.yaml", overrides=overrides), workspace=Workspace.open("w", name="x"), now_us=NOW_US
    )


@pytest.mark.ray
def test_the_example(ray_session, blocks):
    log = read()
    assert log.counts.types == {"newsletter": 1, "purchase": 5, "view": 1}
    assert log.counts.rejected == {}
    assert log.items.select(["item_id", "text", "categories"]).to_pylist()[1:] == [
        {"item_id": "B-12", "text": "Rye bread, Mill & Sons", "categories": ["bakery", "bread"]},
        {"item_id": "C-07", "text": "Mountain cheese", "categories": ["dairy", "cheese"]},
    ]
    assert [len(vector or ()) for vector in log.items["vectors"].to_pylist()] == [0, 3, 0]
    consent = dict(zip(log.users["user_id"].to_pylist(), log.users["consent"].to_pylist(), strict=True))
    assert consent == {"1017": True, "2093": False, "4000": False}
    events = pa.concat_tables(block for block in ray.get(log.events.to_arrow_refs()) if block.num_rows)
    first = min(events.to_pylist(), key=lambda row: (row["timestamp"], row["item_id"]))
    assert first["timestamp"] == dt.datetime(2024, 5, 2, 7, 14, 3, tzinfo=dt.UTC)
    assert first["context"] == [("device", "phone")]


def test_the_error_for_a_missing_column(blocks):
    with pytest.raises(SchemaError) as caught:
        read("source.events.columns.user_id=client")
    assert str(caught.value) == blocks["error column"].strip()


@pytest.mark.ray
def test_the_error_for_too_many_rejected_rows(ray_session, blocks):
    for path in Path("log").iterdir():
        path.write_text(re.sub(r"(\d)\.(\d\d),", r'"\1,\2 €",', path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(QuarantineError) as caught:
        read()
    shown = blocks["error rejected"].strip().removesuffix("...")
    assert str(caught.value).startswith(shown)


def test_every_reason_is_explained():
    reasons = [value for name, value in vars(clean).items() if name.isupper() and isinstance(value, str)]
    page = PAGE.read_text(encoding="utf-8")
    for reason in {*reasons, "duplicate", "event_id used twice"} - {
        clean.ROW,
        clean.CONTEXT,
        clean.ERASED,
        clean.HIDDEN,
    }:
        assert f"`{reason}`" in page
