"""The deployed application on a real Ray: one release served, another one rolled out, over real HTTP."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ports import free_ports
from scraped import scrape, until
from tiny_text_release import write_text_release

from clm_ray.client import AsyncClient, Client
from clm_ray.config.workspace import Workspace
from clm_ray.errors import ConflictError, ForbiddenError, RequestError
from clm_ray.features.history import EMPTY
from clm_ray.messages import Ranking, Recommendation
from clm_ray.model.inference import Scorer, UserRequest
from clm_ray.serve import measures
from clm_ray.serve.args import AppArgs, OutcomeArgs, PartArgs, ShadowArgs, SplitArgs, TimeoutArgs
from clm_ray.serve.deploy import deploy, stop
from clm_ray.store.shadow import shadows_of
from clm_ray.store.store import open_store

pytestmark = pytest.mark.ray

TOKEN = "only-for-tests"
EVE_STAYS = "e0"
"""An experiment whose hash leaves eve with the incumbent."""
RECORDED_BY_NOW = (
    measures.REQUESTS,
    measures.HOP_SECONDS,
    measures.BATCH_SIZE,
    measures.ANSWERS,
    measures.DEGRADED,
    measures.STAGES,
    measures.ACTIONS,
    measures.EVENTS,
    measures.STORE_SECONDS,
)
"""What any use of the endpoint brings forth."""
CANDIDATES = ["i01", "i04", "i07", "i09"]


@dataclass(frozen=True)
class Endpoint:
    workspace: Workspace
    args: AppArgs
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def endpoint(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("endpoint")
    workspace = Workspace(folder / "shop")
    write_text_release(workspace, "r1", seed=1)
    token = folder / "token"
    token.write_text(TOKEN, encoding="utf-8")
    one = PartArgs(max_replicas=1)
    gateway = PartArgs(max_replicas=1, max_ongoing_requests=64)
    args = AppArgs(admin_token_file=str(token), gateway=gateway, profiler=one, ranker=one, retention=one)
    (port,) = free_ports(1)
    made = Endpoint(workspace, args, port)
    assert deploy(workspace.root, port=port, args=args).release == "r1"
    yield made
    stop()


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[Client]:
    with Client(endpoint.url, admin_token=TOKEN) as opened:
        yield opened


def test_a_recommendation_over_http_is_complete_and_its_slate_is_durable(client: Client, endpoint: Endpoint) -> None:
    client.events([{"user_id": "ann", "event_type": "purchase", "item_id": "i01", "value": 9.5}])
    answer = client.recommend("ann", candidates=CANDIDATES, k=3, explain=True)
    assert [item.position for item in answer.items] == [1, 2, 3]
    scores = [item.probability or 0.0 for item in answer.items]
    assert scores[0] == max(scores) > 0, "the rest may be in another order, for the sake of diversity"
    assert answer.profile is not None
    assert answer.profile.strategy is not None
    assert answer.profile.strategy.name == "teach"
    assert (answer.profile.stage, answer.profile.monetary["7"]) == ("new", 9.5)
    assert answer.retention is not None
    assert answer.retention.explanation
    assert answer.degraded == []
    with open_store(endpoint.workspace.store_url, create=False) as store:
        slate = store.slates_of([str(answer.decision_id)])[str(answer.decision_id)]
    assert slate.items == tuple(item.item_id for item in answer.items)
    assert slate.action_id == answer.retention.action_id


def test_new_events_change_the_very_next_recommendation(client: Client) -> None:
    def scores() -> list[tuple[str, float | None]]:
        return [(item.item_id, item.probability) for item in client.recommend("carl", candidates=CANDIDATES).items]

    before = scores()
    client.events([{"user_id": "carl", "event_type": "purchase", "item_id": "i09", "value": 30.0}])
    assert scores() != before


def test_the_same_event_twice_is_one_event(client: Client) -> None:
    event = {"event_id": "once", "user_id": "dora", "event_type": "click", "item_id": "i02"}
    assert client.events([event]).accepted == 1
    assert client.events([event]).duplicate == 1
    assert client.profile("dora").profile.events == 1


def test_a_retention_decision_holds_for_its_period_while_every_slate_has_its_own_id(client: Client) -> None:
    first, second = client.recommend("ann"), client.recommend("ann")
    assert first.retention is not None
    assert second.retention is not None
    assert first.retention.action_id == second.retention.action_id
    assert first.decision_id != second.decision_id


def test_a_user_never_seen_gets_what_is_popular(client: Client) -> None:
    answer = client.recommend("stranger")
    assert answer.degraded == ["no_history"]
    assert len(answer.items) == 5
    assert answer.profile is not None
    assert answer.profile.stage == "prospect"


def test_served_probabilities_are_those_of_the_one_scoring_path(client: Client, endpoint: Endpoint) -> None:
    moment = client.version().time
    answer = client.recommend("eve", candidates=CANDIDATES, as_of=moment)
    assert answer.decision_id is None
    assert answer.retention is None
    scorer = Scorer.open(endpoint.workspace.releases / "r1")
    (state,) = scorer.states([UserRequest("eve", EMPTY, moment)])
    rows = scorer.items.rows(CANDIDATES)
    expected = dict(zip(CANDIDATES, scorer.click([state], [rows])[0].tolist(), strict=True))
    np.testing.assert_allclose(
        [item.probability for item in answer.items], [expected[item.item_id] for item in answer.items], atol=1e-6
    )


def test_refusals_reach_the_caller_with_field_and_fix(client: Client, endpoint: Endpoint) -> None:
    with pytest.raises(RequestError) as caught:
        client.recommend("ann", candidates=["i01", "i99"])
    assert (caught.value.field, caught.value.status) == ("candidates[1]", 422)
    with Client(endpoint.url) as nobody, pytest.raises(ForbiddenError):
        nobody.recommend("ann", as_of=client.version().time)
    broken = httpx.post(f"{endpoint.url}/v1/recommend", content=b"{", headers={"Content-Type": "application/json"})
    assert (broken.status_code, broken.headers["content-type"]) == (400, "application/problem+json")


def test_the_first_reason_is_what_happens_without_its_event(client: Client) -> None:
    moment = client.version().time
    events = [
        {"event_type": "purchase", "item_id": item, "value": 5.0, "timestamp": moment - (days + 1) * 86_400_000_000}
        for days, item in enumerate(["i01", "i04", "i09"])
    ]

    def ask(recent: list[dict[str, Any]]) -> Ranking:
        return client.rank(anonymous=True, candidates=["i04"], recent_events=recent, explain=True, as_of=moment)

    (item,) = ask(events).items
    assert item.reasons
    top = item.reasons[0]
    (without,) = ask([event for event in events if event["timestamp"] != top.time]).items
    assert item.probability is not None
    assert without.probability is not None
    assert item.probability - without.probability == pytest.approx(top.effect, abs=1e-6)
    assert abs(top.effect) > 1e-5


def test_an_answer_has_the_id_of_its_request_once(endpoint: Endpoint) -> None:
    for given in ({"X-Request-Id": "shop-17"}, {}):
        response = httpx.get(f"{endpoint.url}/v1/version", headers=given)
        (found,) = response.headers.get_list("x-request-id")
        assert found == given.get("X-Request-Id", found)
    refused = httpx.post(f"{endpoint.url}/v1/rank", json={}, headers={"X-Request-Id": "shop-18"})
    assert refused.json()["request_id"] == "shop-18"


def test_the_asynchronous_client_and_a_key_that_was_used(endpoint: Endpoint) -> None:
    async def ask() -> tuple[list[Recommendation], int]:
        async with AsyncClient(endpoint.url) as client:
            same = [client.recommend("key-user", idempotency_key="k-1") for _ in range(4)]
            answers = await asyncio.gather(*same)
            try:
                await client.recommend("key-user", k=1, idempotency_key="k-1")
            except ConflictError as error:
                return answers, error.status
            return answers, 200

    answers, status = asyncio.run(ask())
    assert status == 409
    assert len({answer.decision_id for answer in answers}) == 1
    assert answers[0].decision_id


def test_an_item_that_is_put_is_encoded_ranked_and_retrieved(client: Client) -> None:
    (verdict,) = client.put_items([{"item_id": "tea/1", "text": "text of tea", "categories": ["fruit"]}])
    assert (verdict.status, verdict.note) == ("rankable", None)
    (shown,) = client.recommend("ann", candidates=["tea/1"], explain=True).items
    assert shown.text == "text of tea"
    assert shown.probability is not None
    assert 0 < shown.probability < 1
    assert client.events([{"user_id": "fay", "event_type": "purchase", "item_id": "tea/1", "value": 3.0}]).accepted == 1
    retrieved = client.rank("fay", k=20).items
    assert "tea/1" in [item.item_id for item in retrieved], "what she bought comes first"
    client.delete_item("i12")
    with pytest.raises(RequestError):
        client.recommend("ann", candidates=["i12"])
    assert "i12" not in [item.item_id for item in client.rank("ann", k=20).items]
    assert {item.item_id: item.deleted for item in client.items()} == {"tea/1": False, "i12": True}
    (again,) = client.put_items([{"item_id": "i12", "text": "text of i12", "categories": ["bread"]}])
    assert again.status == "rankable"


def test_an_erased_user_is_a_stranger(client: Client) -> None:
    client.events([{"event_id": "gus-1", "user_id": "gus", "event_type": "click", "item_id": "i02"}])
    client.put_user("gus", consent=True, timezone="Asia/Tokyo")
    assert client.recommend("gus").profile is not None
    kinds = {record.kind for record in client.export_user("gus")}
    assert {"events", "users", "served_slates", "retention_decisions"} <= kinds
    assert client.erase_user("gus").removed["events"] == 1
    assert client.export_user("gus") == []
    assert client.profile("gus").profile.stage == "prospect"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_the_curl_examples_of_the_documentation_work(endpoint: Endpoint) -> None:
    page = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")
    scripts = [block for block in re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL) if "curl" in block]
    assert len(scripts) >= 6
    for script in scripts:
        here = script.replace("http://127.0.0.1:8000", endpoint.url).replace("curl -s", "curl -sS --fail-with-body")
        environment = {**os.environ, "CLM_ADMIN_TOKEN": TOKEN}
        done = subprocess.run(
            ["bash", "-euc", here], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{here}\n{done.stdout}{done.stderr}"
    on = {"on": False, "by": "the test", "reason": "the examples switched it on"}
    httpx.put(f"{endpoint.url}/v1/policy/kill-switch", json=on, headers={"X-Admin-Token": TOKEN}).raise_for_status()


def test_many_callers_at_once_get_their_own_answers(client: Client) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: client.recommend(f"user-{n}", candidates=[f"i{n % 12 + 1:02d}"]), range(48)))
    assert [answer.user_id for answer in answers] == [f"user-{n}" for n in range(48)]
    assert [answer.items[0].item_id for answer in answers] == [f"i{n % 12 + 1:02d}" for n in range(48)]


def test_openapi_is_served(endpoint: Endpoint) -> None:
    assert "/v1/recommend" in httpx.get(f"{endpoint.url}/openapi.json").json()["paths"]


def test_metrics_are_where_prometheus_scrapes_them(client: Client, endpoint: Endpoint) -> None:
    def answers() -> dict[str, float]:
        """Release → answers counted."""
        counted: dict[str, float] = {}
        for name, tags, value in scrape():
            if name == "ray_clm_answers_total":
                counted[tags["release"]] = counted.get(tags["release"], 0.0) + value
        return counted

    before = answers()
    client.recommend("ann", candidates=CANDIDATES)
    client.recommend("whom the metrics do not know", candidates=CANDIDATES)
    client.events([{"user_id": "ann", "event_type": "click", "item_id": "i01"}])
    httpx.post(f"{endpoint.url}/v1/recommend", json={"user_id": ""})
    expected = {name for measure in RECORDED_BY_NOW for name in measure.exported}
    until(lambda: expected <= {name for name, _, _ in scrape()})
    found = scrape()

    def labels(name: str, label: str) -> set[str]:
        return {tags[label] for metric, tags, _ in found if metric == name}

    assert {"ok", "refused"} <= labels("ray_clm_requests_total", "outcome")
    assert {"/v1/recommend", "/v1/events"} <= labels("ray_clm_requests_total", "route")
    assert {"profiler", "ranker", "retention", "store", "batch"} <= labels("ray_clm_hop_seconds_count", "hop")
    assert {"append_events", "log_slates"} <= labels("ray_clm_store_seconds_count", "operation")
    assert "no_history" in labels("ray_clm_degraded_total", "reason")
    # The Ray session is shared, and keeps what applications of other tests counted.
    assert until(lambda: {name for name, n in answers().items() if n > before.get(name, 0.0)}) == {"r1"}
    assert "whom the metrics do not know" not in str(found)


# The following change what is deployed and come last.


def test_a_new_current_release_is_rolled_out_without_losing_a_request(client: Client, endpoint: Endpoint) -> None:
    write_text_release(endpoint.workspace, "r2", seed=2)
    beside = endpoint.args.model_copy(
        update={
            "split": SplitArgs(release="r1", share=0.5, experiment=EVE_STAYS),
            "shadow": ShadowArgs(release="r1"),
            "outcomes": OutcomeArgs(every_s=0.5, window_hours=0.0001),
        }
    )
    moment = client.version().time
    old = client.recommend("eve", candidates=CANDIDATES, as_of=moment)
    with ThreadPoolExecutor(2) as pool:
        rollout = pool.submit(deploy, endpoint.workspace.root, port=endpoint.port, args=beside)
        during = []
        while not rollout.done():
            during.append(client.recommend("eve", candidates=CANDIDATES, as_of=moment))
    assert rollout.result().parts == dict.fromkeys(("gateway", "profiler", "ranker", "retention", "encoder"), "r2")
    new = client.recommend("eve", candidates=CANDIDATES, as_of=moment)
    assert (old.release, new.release) == ("r1", "r2")
    assert [item.item_id for item in client.recommend("eve", candidates=["tea/1"]).items] == ["tea/1"], (
        "what was put is encoded by the new release too"
    )
    for answer in during:
        assert answer.items == {"r1": old, "r2": new}[answer.release].items, (
            "never rows of one release, scores of another"
        )
        assert answer.degraded == ["no_history"]


def test_both_releases_answer_their_users_and_the_shadow_looks_on(client: Client, endpoint: Endpoint) -> None:
    """On what the test before has deployed."""
    answers = [client.recommend(f"side-{n}", candidates=CANDIDATES) for n in range(16)]
    assert {(answer.arm, answer.release) for answer in answers} == {("incumbent", "r2"), ("challenger", "r1")}
    assert all(answer.degraded in ([], ["no_history"]) for answer in answers), "nobody waits for the shadow"
    names = [str(answer.decision_id) for answer in answers]
    with open_store(endpoint.workspace.store_url, create=False) as store:
        shadows = until(lambda: found if len(found := shadows_of(store, names, release="r1")) == len(names) else None)
        slates = store.slates_of(names)
    for answer in answers:
        assert slates[str(answer.decision_id)].arm == answer.arm
        judged = shadows[str(answer.decision_id)]
        if answer.release == "r1":
            assert judged.shown == pytest.approx([item.probability for item in answer.items], abs=1e-6)
    versions = until(
        lambda: (
            found
            if len(found := _versions("ray_clm_calibration_ratio") & {("r2", "incumbent"), ("r1", "challenger")}) == 2
            else None
        )
    )
    assert versions <= _versions("ray_clm_outcome_slates")
    assert until(lambda: [v for name, t, v in scrape() if name == "ray_clm_shadow_total" and t["result"] == "logged"])


def _versions(name: str) -> set[tuple[str, str]]:
    return {(tags["release"], tags["arm"]) for metric, tags, _ in scrape() if metric == name}


def test_a_ranker_that_is_late_costs_the_scores_and_not_the_answer(client: Client, endpoint: Endpoint) -> None:
    hurried = endpoint.args.model_copy(update={"timeouts": TimeoutArgs(ranker_s=1e-4)})
    deploy(endpoint.workspace.root, port=endpoint.port, args=hurried)
    answer = client.recommend("ann", candidates=CANDIDATES, k=2)
    assert answer.degraded == ["ranker_late"]
    assert answer.arm is None, "split and shadow are taken back"
    assert [(item.item_id, item.probability) for item in answer.items] == [("i09", None), ("i07", None)]
    assert answer.retention is not None
    assert answer.decision_id is not None
