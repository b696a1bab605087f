"""A user is erased: from every file and from the store, for good; a dataset under pseudonyms names nobody in the first place."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shop_loop import Shop

from clm_ray.errors import ClmError
from clm_ray.release.publish import fill_store, verify
from clm_ray.schema import AVAILABILITY, EVENTS, slate_slot
from clm_ray.store.records import ServedSlate, StoredEvent
from clm_ray.store.store import open_store
from jobs import erase, prepare

pytestmark = pytest.mark.ray
USER, OTHER = "c001", "c002"
KEPT = "log/buckets/"
KEY = "a key that must be found nowhere"


def mentions(root: Path, pattern: str) -> list[str]:
    """Files below `root` in which a whole word matches: cells of Parquet, text, bytes of anything else."""
    word = re.compile(rf"(?<!\w)(?:{pattern})(?!\w)")
    found = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        if path.suffix == ".parquet":
            text = json.dumps(pq.read_table(path, partitioning=None).to_pylist(), default=str)
        else:
            text = path.read_bytes().decode("latin-1")
        if word.search(text):
            found.append(str(path.relative_to(root)))
    return found


def live(shop: Shop, time: int) -> None:
    """Histories, an event and a slate of both users in the store; a slate with its click in the feedback."""
    with open_store(shop.workspace.store_url) as store:
        fill_store(store, shop.workspace.current("datasets"), clock="log_end", wall_us=time)
        for user in (USER, OTHER):
            store.append_events([StoredEvent(f"live-{user}", user, "click", time, item_id="1001")], received_at=time)
            store.log_slates([ServedSlate(f"stored-{user}", user, time, "r", ("1001", "1002"), (0.5, 0.4), None)])
    rows, offers = [], []
    for user in (USER, OTHER):
        event = {"user_id": user, "timestamp": time, "context": [], "decision_id": f"fed-{user}"}
        rows += [
            event | {"event_id": f"impression:{user}", "event_type": "impression"},
            event | {"event_id": f"click-{user}", "event_type": "click", "item_id": "1002"},
        ]
        offers.append({"slot": slate_slot(f"fed-{user}"), "item_id": "1002"})
    for name, table in {
        "events": pa.Table.from_pylist(rows, EVENTS),
        "availability": pa.Table.from_pylist(offers, AVAILABILITY),
    }.items():
        (shop.workspace.feedback / name).mkdir(parents=True)
        pq.write_table(table, shop.workspace.feedback / name / "part-1.parquet")


def test_an_erased_user_is_gone_and_does_not_come_back(
    trained_shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = trained_shop.copy(tmp_path / "shop")
    events = pq.read_table(shop.workspace.current("datasets") / "events")
    last = max(events.column("timestamp").cast(pa.int64()).to_pylist())
    live(shop, last)
    dataset, release = shop.workspace.current("datasets"), shop.workspace.current("releases")
    before = {name: mentions(shop.workspace.root, name) for name in (USER, OTHER)}
    assert {Path(path).parts[0] for path in before[USER]} >= {
        "datasets",
        "evaluations",
        "feedback",
        "log",
        "releases",
        "runs",
    }

    erase.main(shop.arguments("--user", USER))
    said = capsys.readouterr().out
    assert mentions(shop.workspace.root, rf"(?:[\w:]*-)?{USER}") == []
    assert [p for p in before[OTHER] if not p.startswith(KEPT)] == [
        p for p in mentions(shop.workspace.root, OTHER) if not p.startswith(KEPT)
    ]
    assert verify(release).id == release.name
    [path] = shop.workspace.erasures.glob("*.json")
    assert str(path) in said
    certificate = json.loads(path.read_text())
    assert certificate["learned_from"] == {"runs": [shop.run_folder.name], "releases": [release.name]}
    removed = set(certificate["removed"]["files"])
    assert {p for p in removed if not p.startswith(KEPT)} == {
        p for p in before[USER] if p.endswith(".parquet") and not p.startswith(KEPT)
    }
    assert {p for p in before[USER] if p.startswith(KEPT)} <= removed, "kept buckets of the user go altogether"
    assert certificate["removed"]["store"]["events"] == 1
    erased = json.loads((dataset / "manifest.json").read_text())["erased"]
    assert "users.parquet" in erased
    kept = pq.read_table(dataset / "events").num_rows
    assert events.num_rows - kept == sum(user == USER for user in events.column("user_id").to_pylist())

    shutil.rmtree(shop.workspace.log)  # what was kept of the log is without the user too; here all of it is read again
    shop.run(prepare.main)
    again = shop.workspace.current("datasets")
    assert mentions(shop.workspace.root, rf"(?:[\w:]*-)?{USER}") == []
    assert mentions(again, OTHER)
    counts = json.loads((again / "manifest.json").read_text())["counts"]
    assert counts["erased"] == events.num_rows - kept
    assert USER not in pq.read_table(again / "users.parquet").column("user_id").to_pylist()
    assert "erased users" in (again / "report.md").read_text()


def test_a_cut_off_erasure_is_completed_by_the_next(
    trained_shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = trained_shop.copy(tmp_path / "shop")
    replace, replaced = Path.replace, list[Path]()

    def cut_off(self: Path, target: Path) -> Path:
        if target.name == "users.parquet":
            replaced.append(target)
            if len(replaced) == 2:
                raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        erase.main(shop.arguments("--user", USER))
    assert replaced[-1].is_relative_to(shop.workspace.current("releases"))
    assert verify(shop.workspace.current("releases")), "the release is whole, before and after"
    assert mentions(shop.workspace.root, USER)
    monkeypatch.undo()
    [path] = shop.workspace.erasures.glob("*.json")
    assert json.loads(path.read_text())["finished"] is None
    erase.main(shop.arguments("--user", USER))
    assert mentions(shop.workspace.root, USER) == []
    assert verify(shop.workspace.current("releases"))


def test_under_pseudonyms_nobody_is_named_and_can_still_be_erased(
    ray_session: None, shop_recipe: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = shop_recipe.change("privacy.pseudonyms=true", root=tmp_path / "shop")
    monkeypatch.delenv("CLM_PSEUDONYM_KEY", raising=False)
    with pytest.raises(ClmError, match="CLM_PSEUDONYM_KEY"):
        shop.run(prepare.main)
    monkeypatch.setenv("CLM_PSEUDONYM_KEY", KEY)
    shop.run(prepare.main)
    root = shop.workspace.root
    assert mentions(root, r"c\d{3}") == []
    assert mentions(root, KEY) == []
    users = pq.read_table(shop.workspace.current("datasets") / "users.parquet")
    assert dict(users.column("categorical").to_pylist()[0])["segment"] in ("town", "country"), (
        "columns found their users"
    )
    erase.main(shop.arguments("--user", USER))
    [path] = shop.workspace.erasures.glob("*.json")
    assert "datasets" in " ".join(json.loads(path.read_text())["removed"]["files"])
    after = pq.read_table(shop.workspace.current("datasets") / "users.parquet")
    assert after.num_rows == users.num_rows - 1


def test_nobody_named_is_an_error(shop_recipe: Shop, tmp_path: Path) -> None:
    shop = shop_recipe.change(root=tmp_path / "shop")
    with pytest.raises(ClmError, match="--user"):
        erase.main(shop.arguments())
    with pytest.raises(ClmError, match="no such workspace"):
        erase.main(shop.arguments("--user", USER))
    with pytest.raises(ClmError, match="users-file"):
        erase.main(shop.arguments("--users-file", str(tmp_path / "none.txt")))


def test_users_whom_the_endpoint_erased_are_erased_from_the_files_too(
    ray_session: None, shop_recipe: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = shop_recipe.change(root=tmp_path / "shop").run(prepare.main)
    erase.main(shop.arguments("--pending"))
    assert "nobody is waiting" in capsys.readouterr().out
    with open_store(shop.workspace.store_url) as store:
        store.erase([USER], pending=True)
    erase.main(shop.arguments("--pending"))
    users = pq.read_table(shop.workspace.current("datasets") / "users.parquet").column("user_id").to_pylist()
    assert users
    assert USER not in users
    with open_store(shop.workspace.store_url) as store:
        assert store.pending_erasures() == []
    erase.main(shop.arguments("--pending"))
    assert "nobody is waiting" in capsys.readouterr().out
