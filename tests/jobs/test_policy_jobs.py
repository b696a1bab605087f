"""The commands around the running policy: what they change is in the store, and they say who must be named."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clm_ray.config.recipe import recipe_from
from clm_ray.config.workspace import Workspace
from clm_ray.decide.controls import read_controls, request_approvals, stop_actions
from clm_ray.errors import ConfigError
from clm_ray.schema import USERS
from clm_ray.store.clock import wall_us
from clm_ray.store.store import open_store
from jobs import campaign, policy, review_policy

SAID = ["--by", "ann", "--reason", "looked at"]


@pytest.fixture
def shop(tmp_path: Path) -> tuple[list[str], Workspace]:
    """A recipe on disk, a release without a model, an empty store."""
    recipe = recipe_from(
        {
            "name": "shop",
            "source": {"kind": "files", "events": {"paths": ["unused.parquet"]}},
            "event_types": {"purchase": {"roles": ["positive", "context", "activity"], "value": "amount"}},
        }
    )
    workspace = Workspace(tmp_path / "root")
    folder = workspace.releases / "r1"
    folder.mkdir(parents=True)
    for path in (folder / "recipe.yaml", tmp_path / "shop.yaml"):
        path.write_text(recipe.to_yaml(), encoding="utf-8")
    thresholds = {"new_days": 28.0, "at_risk_days": 14.0, "churned_days": 60.0, "reactivated_days": 28.0}
    (folder / "manifest.json").write_text(json.dumps({"id": "r1", "parents": {}, "thresholds": thresholds}))
    pq.write_table(USERS.empty_table(), folder / "users.parquet")
    items = pa.table({"item_id": [""], "categories": pa.array([[]], pa.list_(pa.string()))})
    pq.write_table(items, folder / "items.parquet")
    workspace.point("releases", "r1")
    open_store(workspace.store_url).close()
    return ["--recipe", str(tmp_path / "shop.yaml"), "--root", str(workspace.root)], workspace


def test_kill_resume_approve_and_release(shop: tuple[list[str], Workspace], capsys: pytest.CaptureFixture[str]) -> None:
    where, workspace = shop
    policy.main([*where, "kill", *SAID])
    with open_store(workspace.store_url) as store:
        assert read_controls(store, now=wall_us()).killed == "looked at"
        stop_actions(store, "complaints", action="win_back", reason="too many", now=wall_us())
        (asked,) = request_approvals(store, [("new_action", "letter")], by="policy", now=wall_us())
    policy.main([*where, "show"])
    said = capsys.readouterr().out
    assert "kill switch: on: looked at" in said
    assert "stopped: guardrail:complaints:win_back: too many" in said
    assert f"{asked.approval_id} pending: new_action letter" in said
    policy.main([*where, "resume", *SAID])
    policy.main([*where, "release", "--key", "guardrail:complaints:win_back", *SAID])
    policy.main([*where, "approve", "--id", asked.approval_id, "--days", "7", *SAID])
    with open_store(workspace.store_url) as store:
        state = read_controls(store, now=wall_us())
        assert (state.killed, state.stops) == (None, {})
        assert state.approved(wall_us()) == {("new_action", "letter")}
        assert state.approved(wall_us() + 8 * 86_400_000_000) == frozenset()
    policy.main([*where, "revoke", "--id", asked.approval_id, *SAID])
    with open_store(workspace.store_url) as store:
        assert read_controls(store, now=wall_us()).approved(wall_us()) == frozenset()


def test_the_price_of_budget_is_set_and_counts_from_then_on(shop: tuple[list[str], Workspace]) -> None:
    where, workspace = shop
    policy.main([*where, "price", "--price", "0.8", *SAID])
    with open_store(workspace.store_url) as store:
        assert read_controls(store, now=wall_us()).price == 0.8
    for wrong in ([], ["--price", "-1"], ["--price", "nan"]):
        with pytest.raises(ConfigError, match="--price"):
            policy.main([*where, "price", *wrong, *SAID])


@pytest.mark.parametrize("left_out", ["--by", "--reason"])
def test_nobody_changes_anything_without_a_name_and_a_reason(shop: tuple[list[str], Workspace], left_out: str) -> None:
    said = list(SAID)
    del said[said.index(left_out) : said.index(left_out) + 2]
    with pytest.raises(ConfigError, match="is not said"):
        policy.main([*shop[0], "kill", *said])


def test_a_review_of_nothing_says_so(shop: tuple[list[str], Workspace], capsys: pytest.CaptureFixture[str]) -> None:
    where, workspace = shop
    review_policy.main([*where, "--look"])
    assert "0 decisions, 0 with an outcome" in capsys.readouterr().out
    (page,) = (workspace.root / "policy_reviews").glob("*.md")
    assert "Nothing to show yet." in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["../up", "", "a b"])
def test_a_campaign_needs_a_name_that_can_be_a_folder(shop: tuple[list[str], Workspace], name: str) -> None:
    with pytest.raises(ConfigError, match="is no name"):
        campaign.main([*shop[0], "--name", name])
