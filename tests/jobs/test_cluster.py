"""Which process group is believed to be our Ray, and what is ended. Stand-in processes; no Ray is started."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs import cluster
from jobs.cluster import Head


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own; the current folder is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    yield started
    started.kill()
    started.wait()


def note(text: str) -> None:
    cluster.STATE.mkdir(parents=True, exist_ok=True)
    (cluster.STATE / "head.json").write_text(text, encoding="utf-8")


def head_of(process: subprocess.Popen[bytes]) -> Head:
    stat = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return Head(process.pid, 7777, int(stat.rpartition(")")[2].split()[19]), boot)


def test_our_head_is_known_and_ended(process: subprocess.Popen[bytes]) -> None:
    note(json.dumps(asdict(head_of(process))))
    assert cluster.address() == "127.0.0.1:7777"
    cluster.stop_head()
    assert process.wait(timeout=30) != 0
    assert cluster.address() is None


@pytest.mark.parametrize("change", [{"started": 1}, {"boot": "another"}], ids=["another process", "another boot"])
def test_a_number_that_belongs_to_somebody_else_by_now_is_left_alone(
    process: subprocess.Popen[bytes], change: dict[str, object]
) -> None:
    note(json.dumps(asdict(replace(head_of(process), **change))))  # type: ignore[arg-type]
    assert cluster.address() is None
    cluster.stop()
    cluster.stop_head()
    assert process.poll() is None


@pytest.mark.parametrize("text", ["", '{"group": 1', "7", "[]", "{}", '{"group": 0, "port": 1}', "\x00"])
def test_a_damaged_note_is_none(process: subprocess.Popen[bytes], text: str) -> None:
    note(text)
    assert cluster.address() is None
    cluster.stop_head()
    assert process.poll() is None
    assert not list(cluster.STATE.iterdir())


def test_an_interrupted_start_ends_what_it_started(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", lambda *_args, **_more: None)
    monkeypatch.setattr(subprocess, "Popen", lambda *_args, **_more: SimpleNamespace(pid=process.pid, poll=interrupted))
    with pytest.raises(KeyboardInterrupt):
        cluster.start(port=7777)
    assert process.wait(timeout=30) != 0
    assert not (cluster.STATE / "head.json").exists()
