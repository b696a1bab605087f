"""The compositions that the endpoint's speed is compared with do the endpoint's work: here without Ray and without a server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_release import write_release

from benchmarks import serve_default, serve_fastapi
from clm_ray.config.workspace import Workspace
from clm_ray.messages import Recommendation, RecommendRequest
from clm_ray.store.store import Store

REQUEST = RecommendRequest(user_id="ann", candidates=["i03", "i01", "i02"], k=2)


@pytest.fixture
def workspace(tmp_path: Path, store: Store) -> Workspace:
    """A release, and its store."""
    found = Workspace(tmp_path)
    assert found.store_url == f"sqlite:///{tmp_path / 'store.db'}"
    write_release(found, "r1", seed=1)
    return found


def handle(part: object, *methods: str) -> Any:
    """What a Ray Serve handle of the part would be."""
    return SimpleNamespace(**{name: SimpleNamespace(remote=getattr(part, name)) for name in methods})


def default(workspace: Workspace) -> Recommendation:
    folder, url = workspace.current("releases"), workspace.store_url
    shop = serve_default.Shop(
        folder,
        url,
        handle(serve_default.ProfilerModel(folder, url), "profile"),
        handle(serve_default.RankerModel(folder), "rank"),
        handle(serve_default.RetentionModel(folder, url), "retain"),
    )
    return asyncio.run(shop.recommend(REQUEST))


def fastapi(workspace: Workspace) -> Recommendation:
    async def ask() -> Recommendation:
        return await serve_fastapi.gateway_of(workspace).recommend(REQUEST)

    return asyncio.run(ask())


def test_each_answers_one_request_as_the_other_does_and_logs_it(workspace: Workspace, store: Store) -> None:
    answers = [default(workspace), fastapi(workspace)]
    for answer in answers:
        assert answer.degraded == ["no_history"]
        assert answer.profile is not None
        assert answer.retention is not None
        assert answer.decision_id is not None
        slate = store.slates_of([answer.decision_id])[answer.decision_id]
        assert slate.items == tuple(item.item_id for item in answer.items)
    first, second = ({item.item_id: item.probability for item in answer.items} for answer in answers)
    assert list(first) == list(second)
    assert first == pytest.approx(second, abs=1e-5)
    assert len(first) == 2
