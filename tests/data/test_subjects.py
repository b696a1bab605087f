"""Pseudonyms and tombstones where rows are read: nobody is named, and nobody who was erased comes back."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pytest

from clm_ray.config.recipe import recipe_from
from clm_ray.data.certificate import Models, finish_certificate, start_certificate
from clm_ray.data.clean import ERASED, HIDDEN, ROW, broken_rows, clean_rows, rules_of
from clm_ray.data.subjects import Subjects, hash_name, read_tombstones
from clm_ray.errors import DataError
from clm_ray.privacy import Pseudonyms

NOW_US = round(dt.datetime(2024, 6, 1, tzinfo=dt.UTC).timestamp() * 1e6)
PSEUDONYMS = Pseudonyms(b"0123456789abcdef")
RECIPE = recipe_from(
    {
        "name": "t",
        "source": {"kind": "files", "events": {"paths": ["x"]}},
        "event_types": {"buy": {"roles": ["positive", "context", "activity"]}},
    }
)
GOOD = {"user_id": "ann", "item_id": "i", "event_type": "buy", "timestamp": "2024-05-01T10:00:00Z"}


def cleaned(*records: dict[str, object], subjects: Subjects) -> pa.Table:
    raw = pa.Table.from_pylist([{**GOOD, **record} for record in records])
    raw = raw.append_column(ROW, pa.array(range(1, len(records) + 1), pa.int64()))
    return clean_rows(raw, rules=rules_of(RECIPE, now_us=NOW_US, subjects=subjects), file=0)


def test_users_are_known_by_their_pseudonyms_from_the_first_step_on() -> None:
    subjects = Subjects(PSEUDONYMS)
    found = cleaned({}, {"user_id": " bob "}, {"user_id": "5.0"}, subjects=subjects)
    assert found.column("user_id").to_pylist() == [PSEUDONYMS.of(user) for user in ("ann", "bob", "5")]
    plain = cleaned({}, {"user_id": "bob"}, {"user_id": "5"}, subjects=Subjects())
    for name in ("item_id", "event_type", "timestamp", "reason"):
        assert found.column(name).to_pylist() == plain.column(name).to_pylist()


def test_rejected_rows_do_not_say_what_stood_in_them() -> None:
    subjects = Subjects(PSEUDONYMS)
    found = cleaned({}, {"timestamp": "ann@example.org"}, subjects=subjects)
    assert found.column("detail").to_pylist() == [None, HIDDEN]
    rules = rules_of(RECIPE, now_us=NOW_US, subjects=subjects)
    broken = broken_rows([(3, "ann;what;ever")], rules=rules, file=0)
    assert broken.column("detail").to_pylist() == [HIDDEN]
    assert "ann" not in json.dumps([found.to_pylist(), broken.to_pylist()], default=str)


@pytest.mark.parametrize("pseudonyms", [None, PSEUDONYMS], ids=["ids", "pseudonyms"])
def test_what_came_before_an_erasure_is_not_read_again(tmp_path: Path, pseudonyms: Pseudonyms | None) -> None:
    until = round(dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC).timestamp() * 1e6)
    users = ["ann", "bob"] if pseudonyms is None else [pseudonyms.of("ann"), pseudonyms.of("bob")]
    start_certificate(tmp_path, users, models=Models(), now_us=until)
    subjects = Subjects(pseudonyms, read_tombstones(tmp_path))
    found = cleaned(
        {},
        {"user_id": "carl"},
        {"timestamp": "2024-05-01T12:00:00Z"},
        {"user_id": "bob", "timestamp": "never"},
        {"user_id": "carl", "timestamp": "never"},
        subjects=subjects,
    )
    reasons = [ERASED, None, None, ERASED, "unparsable time"]
    assert found.column("reason").to_pylist() == reasons
    assert [bool(detail) for detail in found.column("detail").to_pylist()] == [False] * 4 + [True]


def test_of_two_erasures_of_a_user_the_later_holds(tmp_path: Path) -> None:
    for moment in (50, 90, 70):
        start_certificate(tmp_path, ["ann", f"u{moment}"], models=Models(), now_us=moment)
    found = read_tombstones(tmp_path)
    lowest = found.until(["nobody"])[0]
    assert found.until(["u50", "ann", "u70", "nobody", None]).tolist() == [50, 90, 70, lowest, lowest]
    assert read_tombstones(tmp_path / "none").until(["ann"]).tolist() == [lowest]


def test_a_certificate_names_nobody_and_says_what_was_removed(tmp_path: Path) -> None:
    path = start_certificate(tmp_path, ["ann"], models=Models(runs=("r",)), now_us=50)
    assert json.loads(path.read_text())["finished"] is None
    finish_certificate(path, store={"events": 3}, files={"datasets/x/users.parquet": 1})
    found = json.loads(path.read_text())
    assert found["users"] == [hash_name("ann")]
    assert found["removed"] == {"store": {"events": 3}, "files": {"datasets/x/users.parquet": 1}}
    assert found["learned_from"]["runs"] == ["r"]
    assert found["finished"]
    assert "ann" not in path.read_text()


@pytest.mark.parametrize("text", ["", "{}", '{"users": ["zz"], "until_us": 5}', '{"users": 5, "until_us": 5}'])
def test_a_damaged_certificate_lets_nobody_come_back(tmp_path: Path, text: str) -> None:
    (tmp_path / "20240101.json").write_text(text)
    with pytest.raises(DataError, match="certificate"):
        read_tombstones(tmp_path)
