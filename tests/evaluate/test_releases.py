"""Two releases compared from the store: a split, a shadow, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clm_ray.config.recipe import recipe_from
from clm_ray.errors import DataError
from clm_ray.evaluate.releases import Comparison, compare, markdown
from clm_ray.schema import HOUR_US
from clm_ray.store.clock import wall_us
from clm_ray.store.outcomes import Meaning
from clm_ray.store.records import ServedSlate, ShadowSlate, StoredEvent
from clm_ray.store.shadow import log_shadows
from clm_ray.store.store import Store, open_store
from jobs import compare_releases

MEANING = Meaning(positive={"buy": None}, amounts=frozenset({"buy"}))
ITEMS = ("a", "b")


def serve(
    store: Store,
    release: str,
    *,
    rate: float,
    arm: str = "",
    users: int = 150,
    start: int = 0,
    claimed: float = 0.2,
    seed: int = 0,
) -> list[str]:
    """Three slates for each of the users, whose items are bought (for 2.0) at `rate`."""
    random = np.random.default_rng(seed)
    slates, events = [], []
    for n in range(3 * users):
        user, name = f"{arm}{n % users}", f"{release}-{arm}-{n}"
        slates.append(ServedSlate(name, user, start + n, release, ITEMS, (claimed, claimed), arm=arm))
        events += [
            StoredEvent(f"{name}-{item}", user, "buy", start + n + 1, item_id=item, decision_id=name, value=2.0)
            for item in ITEMS
            if random.random() < rate
        ]
    store.log_slates(slates)
    store.append_events(events, received_at=start)
    return [slate.decision_id for slate in slates]


def compared(store: Store) -> Comparison:
    return compare(store, one="r1", other="r2", meaning=MEANING, since=0, until=HOUR_US, window_us=HOUR_US)


def test_a_split_finds_the_better_release(store: Store) -> None:
    serve(store, "r1", rate=0.2, arm="incumbent")
    serve(store, "r2", rate=0.4, arm="challenger", seed=1)
    serve(store, "r1", rate=0.9, start=10_000, seed=2)  # before or after the split: other users, another time
    found = compared(store)
    assert (found.kind, found.figures_one.slates, found.figures_other.slates) == ("split", 450, 450)
    assert found.figures_one.ctr.value == pytest.approx(0.2, abs=0.03)
    assert found.gaps["ctr"].low > 0.1
    assert found.gaps["revenue"].value == pytest.approx(0.8, abs=0.2)
    assert found.figures_other.calibration.low > 1.5, "it promised half of what came"
    page = markdown(found)
    assert "revenue per slate" in page
    assert "450" in page


def test_users_who_met_both_releases_are_left_out_and_counted(store: Store) -> None:
    serve(store, "r1", rate=0.2, arm="incumbent")
    serve(store, "r2", rate=0.2, arm="challenger", seed=1)
    store.log_slates([ServedSlate("moved", "incumbent3", 5, "r2", ITEMS, (0.2, 0.2), arm="challenger")])
    found = compared(store)
    assert (found.overlap, found.figures_one.users, found.figures_other.users) == (1, 149, 150)
    assert "1 users met both" in markdown(found)


def test_a_shadow_is_judged_by_what_was_shown_and_by_nothing_else(store: Store) -> None:
    names = serve(store, "r1", rate=0.3, claimed=0.1)
    right = [ShadowSlate(name, str(n % 150), n, "r2", ("c",), (0.9,), (0.3, None)) for n, name in enumerate(names)]
    log_shadows(store, right)
    found = compared(store)
    assert found.kind == "shadow"
    assert set(found.gaps) == {"calibration", "log_loss"}
    assert found.figures_one.scored == found.figures_other.scored == 450, "items that both know"
    assert found.gaps["log_loss"].high < 0
    assert found.figures_other.calibration.low < 1 < found.figures_other.calibration.high
    assert "never shown" in markdown(found)


def test_releases_that_never_met_cannot_be_compared(store: Store) -> None:
    serve(store, "r1", rate=0.2)
    serve(store, "r2", rate=0.2, seed=1)
    with pytest.raises(DataError, match=r"args\.split") as caught:
        compared(store)
    assert caught.value.field == "--other"


def test_the_job_writes_the_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = {
        "name": "shop",
        "source": {"kind": "files", "events": {"paths": ["none.parquet"]}},
        "event_types": {"buy": {"roles": ["positive", "context", "activity"], "value": "amount"}},
        "impressions": {"attribution_hours": 2},
    }
    (tmp_path / "recipe.yaml").write_text(recipe_from(made).to_yaml(), encoding="utf-8")
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        moment = wall_us() - 3 * HOUR_US
        serve(store, "r1", rate=0.2, arm="incumbent", users=20, start=moment)
        serve(store, "r2", rate=0.2, arm="challenger", users=20, start=moment, seed=1)
    compare_releases.main(
        ["--recipe", str(tmp_path / "recipe.yaml"), "--root", str(tmp_path), "--one", "r1", "--other", "r2"]
    )
    assert "r2 beside r1" in capsys.readouterr().out
    written = json.loads((tmp_path / "comparisons" / "r1-r2.json").read_text(encoding="utf-8"))
    assert written["figures_one"]["slates"] == 60
