"""A campaign: the endpoint's decisions for a segment, written once, resumable."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clm_ray import campaign
from clm_ray.campaign import Plan, run_campaign
from clm_ray.config.recipe import recipe_from
from clm_ray.config.workspace import Workspace
from clm_ray.decide.decide import decide
from clm_ray.errors import ConfigError
from clm_ray.schema import USERS
from clm_ray.serve.hops import RetentionFacts
from clm_ray.serve.retention import input_of, open_retention
from clm_ray.store.records import StoredEvent, UserOverlay
from clm_ray.store.store import Store, open_store

DAY = 86_400_000_000
NOW = 19_745 * DAY + DAY // 2
GONE = [f"gone{n:02d}" for n in range(40)]
HERE = [f"here{n:02d}" for n in range(10)]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A release without a model, and a store in which forty users have been silent for long."""
    made = Workspace(tmp_path / "shop")
    folder = made.releases / "r1"
    folder.mkdir(parents=True)
    recipe = recipe_from(
        {
            "name": "shop",
            "source": {"kind": "files", "events": {"paths": ["unused.parquet"]}},
            "event_types": {"purchase": {"roles": ["positive", "context", "activity"], "value": "amount"}},
            "policy": {"holdout_share": 0.2, "budget": 60.0, "temperature": 0.5},
        }
    )
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    thresholds = {"new_days": 28.0, "at_risk_days": 14.0, "churned_days": 60.0, "reactivated_days": 28.0}
    (folder / "manifest.json").write_text(json.dumps({"id": "r1", "parents": {}, "thresholds": thresholds}))
    rows = [{"user_id": u, "consent": u != "gone00", "timezone": "Europe/Berlin"} for u in (*GONE, *HERE)]
    table = pa.Table.from_pylist([{name: row.get(name) for name in USERS.names} for row in rows], schema=USERS)
    pq.write_table(table, folder / "users.parquet")
    made.point("releases", "r1")
    with open_store(made.store_url) as store:
        events = [
            StoredEvent(f"{u}-1", u, "purchase", NOW - 90 * DAY, None, 500.0 + 10 * n) for n, u in enumerate(GONE)
        ]
        events += [StoredEvent(f"{u}-1", u, "purchase", NOW - 10 * DAY, None, 30.0) for u in HERE]
        store.append_events(events, received_at=NOW)
    return made


def start(workspace: Workspace, *, stages: tuple[str, ...] = ("churned",), now: int = NOW) -> campaign.Sent:
    return run_campaign(
        workspace, "june", stages=stages, store_url=workspace.store_url, now=now, parts=8, tell=lambda _text: None
    )


def sent(folder: Path) -> dict[str, list[str]]:
    return {path.stem: pq.read_table(path).column("user_id").to_pylist() for path in sorted(folder.glob("*.parquet"))}


def by_the_endpoint(workspace: Workspace, store: Store, user: str) -> str:
    release = open_retention(workspace.releases / "r1")
    (event,) = store.histories([user])[user].time_N.tolist()
    facts = RetentionFacts(user, NOW, np.array([event], np.int64), np.array([30.0], np.float32))
    given = input_of(facts, release, overlay=None, now=NOW)
    (made,) = decide([given], store=store, config=release.policy, now=NOW, release_id="r1")
    return made.action_id


@pytest.mark.ray
def test_a_segment_is_decided_once_however_often_it_is_run(ray_session: None, workspace: Workspace) -> None:
    with open_store(workspace.store_url) as store:
        early = by_the_endpoint(workspace, store, "gone07")
    first = start(workspace)
    files = {path.name: path.read_bytes() for path in first.folder.glob("*.parquet")}
    users = [user for of in sent(first.folder).values() for user in of]
    assert first.users == 40
    assert sum(first.channels.values()) == len(users) == len(set(users)) > 5
    assert set(users) <= set(GONE) - {"gone00", "gone07"}
    with open_store(workspace.store_url) as store:
        spent = store.budget()
        assert spent.reserved == 0
        assert 0 < spent.spent <= 60_000_000
        with store.reading() as connection:
            origins = connection.exec_driver_sql(
                "SELECT json_extract(record, '$.origin'), count(*) FROM retention_decisions GROUP BY 1"
            ).all()
            assert dict(origins) == {"campaign:june": 39, "endpoint": 1}
    # What a crash may take away comes back as it was.
    (first.folder / "parts" / "00001.parquet").unlink()
    (first.folder / "email.parquet").unlink()
    again = start(workspace, now=NOW + DAY)
    assert {path.name: path.read_bytes() for path in again.folder.glob("*.parquet")} == files
    assert again.channels == first.channels
    with open_store(workspace.store_url) as store:
        assert store.budget() == spent
        assert early not in pq.read_table(first.folder / "email.parquet").column("action_id").to_pylist()
    with pytest.raises(ConfigError, match="is the name of a campaign for churned"):
        start(workspace, stages=("new",))
    (first.folder / "parts" / "00001.parquet").unlink()
    with pytest.raises(ConfigError, match="period is over"):
        start(workspace, now=NOW + 8 * DAY)


def test_a_part_that_was_cut_off_before_it_was_written_sends_the_same(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan("june", "r1", workspace.store_url, NOW, ("churned",), 1, 0.0)
    folder = workspace.root / "campaigns" / "june"
    work = campaign._Decide(plan=asdict(plan), release=str(workspace.releases / "r1"), folder=str(folder))
    batch = pa.table({"part": [0], "users": [[*GONE, *HERE]]})

    def crash(_path: Path, _table: pa.Table) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(campaign, "_write_table", crash)
        with pytest.raises(OSError, match="killed"):
            work(batch)
    spent = work.store.budget()
    assert work(batch).to_pylist() == [{"part": 0, "users": 40}]
    assert work.store.budget() == spent
    out = pq.read_table(folder / "parts" / "00000.parquet")
    assert out.num_rows > 5
    assert set(out.column("user_id").to_pylist()) <= set(GONE) - {"gone00"}
    assert min(out.column("deliver_from").to_pylist()) < min(out.column("deliver_until").to_pylist())
    # Another campaign finds every user decided, and every action gone.
    other = campaign._Decide(
        plan={**asdict(plan), "name": "july"}, release=str(workspace.releases / "r1"), folder=str(folder / "july")
    )
    other(batch)
    assert pq.read_table(folder / "july" / "parts" / "00000.parquet").num_rows == 0


def test_who_withdrew_a_consent_and_was_erased_is_sent_nothing(workspace: Workspace) -> None:
    with open_store(workspace.store_url) as store:
        store.put_overlays([UserOverlay(user, consent=False) for user in GONE])
        store.erase(GONE, at=NOW - 91 * DAY, pending=True)
        back = [StoredEvent(f"{user}-2", user, "purchase", NOW - 90 * DAY, None, 500.0) for user in GONE]
        store.append_events(back, received_at=NOW)
        store.put_overlays([UserOverlay("gone01", consent=True)])
    plan = Plan("june", "r1", workspace.store_url, NOW, ("churned",), 1, 0.0)
    folder = workspace.root / "campaigns" / "june"
    work = campaign._Decide(plan=asdict(plan), release=str(workspace.releases / "r1"), folder=str(folder))
    assert work(pa.table({"part": [0], "users": [GONE]})).to_pylist() == [{"part": 0, "users": 40}]
    out = pq.read_table(folder / "parts" / "00000.parquet").column("user_id").to_pylist()
    assert set(out) <= {"gone01"}, "whoever said yes since"


def test_parts_without_users_are_parts_too(workspace: Workspace) -> None:
    tables = campaign._users(workspace.releases / "r1", range(200), 200)
    assert {str(table.schema.field("users").type) for table in tables} == {"list<item: string>"}
    assert sorted(user for table in tables for user in table.column("users")[0].as_py()) == sorted([*GONE, *HERE])
    rows = [{"users": 0, "value": []}, {"users": 2, "value": [1.0, 2.0, 3.0, 4.0]}, {"users": 0, "value": []}]
    assert campaign._matrix(rows, "value", width=2).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert campaign._matrix(rows[:1], "value", width=2).shape == (0, 2)


def test_the_price_is_that_of_the_segment(workspace: Workspace) -> None:
    plan = Plan("june", "r1", workspace.store_url, NOW, ("churned",), 1, 0.0)
    work = campaign._Value(plan=asdict(plan), release=str(workspace.releases / "r1"), folder="unused")
    (row,) = work(pa.table({"part": [0], "users": [[*GONE, *HERE]]})).to_pylist()
    assert row["users"] == 40
    assert len(row["value"]) == len(row["cost"]) == 40 * 5
    assert max(value for value in row["value"] if value is not None) > 0
