"""The job that makes a log: what it writes is a log that `prepare` reads."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clm_ray.config.recipe import load_recipe
from clm_ray.config.workspace import Workspace
from clm_ray.data.log import read_log
from clm_ray.data.simulated import Simulation
from clm_ray.errors import ConfigError
from jobs import simulate

LATER_US = 1_780_000_000_000_000


@pytest.mark.ray
def test_a_made_log_is_read_whole(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "Simulation", partial(Simulation, events_per_part=1_500))
    simulate.main(["--events", "3000", "--items", "200", "--out", str(tmp_path / "a log: [1]")])
    assert "3,000 events in 2 parts" in capsys.readouterr().out
    assert len(list((tmp_path / "a log: [1]" / "events").iterdir())) == 2
    recipe = load_recipe(str(tmp_path / "a log: [1]" / "recipe.yaml"))
    log = read_log(recipe, workspace=Workspace(tmp_path / "root"), now_us=LATER_US)
    assert (log.counts.kept, log.counts.read) == (3_000, 3_000)
    assert log.counts.users <= 60
    assert log.items.num_rows == pq.read_table(tmp_path / "a log: [1]" / "items.parquet").num_rows + 1
    with pytest.raises(ConfigError, match="is not empty"):
        simulate.main(["--events", "10", "--out", str(tmp_path / "a log: [1]")])


@pytest.mark.parametrize("option", ["--events", "--users", "--items", "--days"])
def test_a_size_that_is_none_is_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigError, match="must be at least 1") as caught:
        simulate.main(["--events", "10", option, "0", "--out", str(tmp_path / "a log: [1]")])
    assert caught.value.field == option
