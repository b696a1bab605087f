"""Progress lines reach whoever follows the run."""

from __future__ import annotations

import time
from pathlib import Path

from clm_ray.train.narrate import following, tell


def test_whoever_follows_a_run_hears_every_new_line_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    heard: list[str] = []
    with following(run, say=heard.append):
        tell(run, "first")
    assert heard == ["first"]
    with following(run, say=heard.append):
        tell(run, "second")
        until = time.monotonic() + 30
        while heard == ["first"] and time.monotonic() < until:
            time.sleep(0.05)
        assert heard == ["first", "second"], "while the run goes on"
        tell(run, "thïrd")
        tell(run, "last")
    assert heard == ["first", "second", "thïrd", "last"]
