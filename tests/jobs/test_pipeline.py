"""The pipeline's own part: what it takes down, and what it shows of a degraded answer. No stage is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from clm_ray.config.recipe import load_recipe, recipe_from
from clm_ray.config.workspace import Workspace
from clm_ray.messages import EventsAnswer, Recommendation, RecommendedItem
from jobs import cluster, pipeline


@pytest.mark.parametrize("before", [None, "127.0.0.1:6379"], ids=["none before", "ran before"])
def test_only_a_ray_that_was_started_here_is_taken_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    def interrupted(*_args: object, **_more: object) -> None:
        raise KeyboardInterrupt

    done: list[str] = []
    monkeypatch.setenv("RAY_ADDRESS", "")
    monkeypatch.setattr(cluster, "address", lambda: before)
    monkeypatch.setattr(cluster, "environment", dict)
    monkeypatch.setattr(cluster, "start", lambda: "127.0.0.1:6379")
    monkeypatch.setattr(cluster, "stop", lambda: done.append("Ray is stopped"))
    monkeypatch.setattr(ray, "shutdown", lambda: done.append("the driver has left"))
    monkeypatch.setattr(pipeline, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.main(["--local", "--recipe", "complete_journey", "--root", str(tmp_path)])
    # A driver whose Ray goes away ends at once, without a word of what was wrong.
    assert done == (["the driver has left", "Ray is stopped"] if before is None else [])


class FakeClient:
    """Gives these slates, one after the other."""

    def __init__(self, *slates: list[RecommendedItem]) -> None:
        self._slates = list(slates)
        self.sent: list[dict[str, Any]] = []

    def recommend(self, user_id: str, **_how: object) -> Recommendation:
        return Recommendation(
            decision_id="d",
            user_id=user_id,
            time=0,
            release="r",
            items=self._slates.pop(0),
            profile=None,
            retention=None,
            degraded=["ranker_late"],
        )

    def events(self, events: list[dict[str, Any]]) -> EventsAnswer:
        self.sent += events
        return EventsAnswer(accepted=len(events), duplicate=0, rejected=0, verdicts=[])


def item(name: str, probability: float | None) -> RecommendedItem:
    return RecommendedItem(item_id=name, probability=probability, position=1)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    (made.datasets / "d1").mkdir(parents=True)
    pq.write_table(pa.table({"user_id": ["u"]}), made.datasets / "d1" / "users.parquet")
    made.point("datasets", "d1")
    return made


def test_a_degraded_answer_is_shown_without_its_probabilities(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    client = FakeClient([item("a", None), item("b", 0.25)], [item("c", 0.5)])
    pipeline.show(client, load_recipe("complete_journey"), workspace)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "place 1: a – → c 0.5000" in said
    assert "place 2: b 0.2500 → –" in said
    assert [event["item_id"] for event in client.sent] == ["a"]


def test_an_empty_slate_is_not_answered(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient([])
    pipeline.show(client, load_recipe("complete_journey"), workspace)  # type: ignore[arg-type]
    assert "nothing was recommended" in capsys.readouterr().out
    assert not client.sent


def test_a_rating_that_is_liked_from_nought_on_is_an_answer(workspace: Workspace) -> None:
    recipe = recipe_from(
        {
            "name": "likes",
            "source": {"kind": "files", "events": {"paths": ["x"]}},
            "event_types": {
                "seen": {"roles": ["context", "activity"]},
                "rating": {"roles": ["context"], "value": "rating", "positive_from": 0},
            },
        }
    )
    client = FakeClient([item("a", 0.5)], [item("b", 0.5)])
    pipeline.show(client, recipe, workspace)  # type: ignore[arg-type]
    assert [(event["event_type"], event["value"]) for event in client.sent] == [("rating", 0.0)]
