"""Round the loop for real: the trained shop is served, its feedback becomes the next dataset, and the next release is served."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ports import free_ports
from shop_loop import Shop

from clm_ray.client import Client
from clm_ray.data.buckets import bucket_of, part
from clm_ray.release.publish import verify
from clm_ray.schema import TRAIN
from clm_ray.serve.args import AppArgs
from clm_ray.serve.deploy import deploy, stop
from jobs import compact, prepare, publish, train

pytestmark = pytest.mark.ray

TOKEN = "only-for-tests"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Served:
    """A shop whose current release answers at `url`."""

    shop: Shop
    args: AppArgs
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def deploy(self) -> str:
        """Serve the current release; its id."""
        return deploy(self.shop.workspace.root, port=self.port, args=self.args).release


@pytest.fixture(scope="module")
def served(trained_shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    token = folder / "token"
    token.write_text(TOKEN, encoding="utf-8")
    (port,) = free_ports(1)
    made = Served(trained_shop.copy(folder / "workspace"), AppArgs(admin_token_file=str(token)), port)
    made.deploy()
    yield made
    stop()


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url, admin_token=TOKEN) as opened:
        yield opened


def _evaluated(shop: Shop, name: str) -> pa.Table:
    return pq.read_table(shop.workspace.evaluations / shop.run_folder.name / f"{name}.parquet")


def test_the_endpoint_gives_the_click_probabilities_of_the_evaluation(served: Served, client: Client) -> None:
    rows = _evaluated(served.shop, "predictions").to_pandas()
    compared = []
    for (user, time), group in list(rows.groupby(["user", "timestamp"], observed=True))[::4]:
        answer = client.recommend(user, candidates=group["item"].tolist(), k=len(group), as_of=time.to_pydatetime())
        assert answer.degraded == []
        probability = {item.item_id: item.probability for item in answer.items}
        compared += [(probability[item], p) for item, p in zip(group["item"], group["probability"], strict=True)]
    online, offline = np.array(compared, float).T
    assert len(online) > 100
    assert offline.std() > 0.02
    np.testing.assert_allclose(online, offline, atol=TOLERANCE)


def test_the_endpoint_gives_the_survival_of_the_evaluation(served: Served, client: Client) -> None:
    rows = _evaluated(served.shop, "retention_predictions").to_pandas()
    days = served.shop.recipe.retention.report_days
    rows = rows[rows["horizon_days"].isin(days)]
    compared = []
    for (user, time), group in list(rows.groupby(["user", "timestamp"], observed=True))[::5]:
        chance = client.profile(user, as_of=time.to_pydatetime()).profile.chance_active
        assert chance is not None
        compared += [(chance[str(d)], p) for d, p in zip(group["horizon_days"], group["probability"], strict=True)]
    online, offline = np.array(compared).T
    assert len(online) > 20
    np.testing.assert_allclose(online, offline, atol=TOLERANCE)


@dataclass(frozen=True)
class Decision:
    """A slate that was shown, and the one item of it that was clicked (None: it was not answered)."""

    user: str
    time: int
    slate: tuple[str, ...]
    clicked: str | None


def _ask_and_answer(client: Client, users: list[str]) -> list[Decision]:
    """Two recommendations for each user, of which the second is left unanswered."""
    decisions = []
    for place, user in enumerate(users):
        for answered in (True, False):
            shown = client.recommend(user, k=4)
            assert shown.decision_id is not None
            slate = tuple(item.item_id for item in shown.items)
            clicked = slate[place % len(slate)] if answered else None
            decisions.append(Decision(user, shown.time, slate, clicked))
            if clicked is not None:
                click = {"user_id": user, "event_type": "click", "item_id": clicked, "decision_id": shown.decision_id}
                assert client.events([click]).accepted == 1
    return decisions


def _training_targets(shop: Shop, decision: Decision) -> dict[str, float]:
    """Item → label of the dataset's training targets at the moment of the decision."""
    dataset = shop.workspace.current("datasets")
    ids = pq.read_table(dataset / "items.parquet").column("item_id").to_pylist()
    (bucket,) = bucket_of([decision.user], shop.recipe.sequences.buckets).tolist()
    found = {}
    for row in pq.read_table(dataset / "sequences" / part(bucket)).to_pylist():
        if row["user_id"] != decision.user:
            continue
        targets = zip(row["tgt_time"], row["tgt_split"], row["tgt_item"], row["tgt_label"], strict=True)
        found |= {ids[item]: label for time, split, item, label in targets if (time, split) == (decision.time, TRAIN)}
    return found


def test_twice_round_the_loop(served: Served, client: Client) -> None:
    shop, first = served.shop, served.shop.workspace.current("releases").name
    users = pq.read_table(shop.workspace.current("datasets") / "users.parquet").column("user_id").to_pylist()[::12]
    before = {user: client.profile(user).profile.events for user in users}
    decisions = _ask_and_answer(client, users)
    clock = client.version().time
    assert client.version().release == first

    again = shop.change("split.refit=true", "train.epochs=1").run(compact.main, prepare.main)
    for decision in decisions:
        expected = {item: float(item == decision.clicked) for item in decision.slate}
        assert _training_targets(again, decision) == expected

    again.run(train.main, publish.main)
    release = verify(again.workspace.current("releases"))
    assert release.id != first
    assert release.manifest["parents"]["dataset"] == again.workspace.current("datasets").name
    assert served.deploy() == release.id
    answer = client.recommend(users[0], k=3)
    assert (answer.release, answer.degraded) == (release.id, [])
    assert client.version().release == release.id
    assert client.version().time >= clock, "the clock goes on"
    for user in users:
        assert client.profile(user).profile.events == before[user] + 1, (
            "a click is counted once, and slates are no events"
        )
