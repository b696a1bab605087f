"""A checkpoint knows whether its files are what was written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from clm_ray.config.train import TrainConfig
from clm_ray.errors import TrainError
from clm_ray.train.checkpoint import Found, Progress, damage
from clm_ray.train.guards import LossWatch


def _checkpoint(folder: Path) -> Path:
    """Of two ranks."""
    (folder / "state").mkdir(parents=True)
    for rank in range(2):
        name = f"state/part-{rank}.pt"
        (folder / name).write_bytes(bytes([rank] * 100))
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / f"files-{rank:05d}.json").write_text(json.dumps({"world": 2, "files": {name: digest}}))
    return folder


def test_a_whole_checkpoint_is_whole(tmp_path: Path) -> None:
    assert damage(_checkpoint(tmp_path / "c")) is None


def test_every_kind_of_damage_is_found_and_named(tmp_path: Path) -> None:
    assert damage(tmp_path) == "no list of files by rank 0"
    cut = _checkpoint(tmp_path / "cut")
    (cut / "state/part-1.pt").write_bytes(bytes([1] * 60))
    assert damage(cut) == "state/part-1.pt has changed"
    flipped = _checkpoint(tmp_path / "flipped")
    (flipped / "state/part-0.pt").write_bytes(bytes([*[0] * 50, 1, *[0] * 49]))
    assert damage(flipped) == "state/part-0.pt has changed"
    lost = _checkpoint(tmp_path / "lost")
    (lost / "state/part-1.pt").unlink()
    assert damage(lost) == "state/part-1.pt is missing"
    half = _checkpoint(tmp_path / "half")
    (half / "files-00001.json").unlink()
    assert damage(half) == "no list of files by rank 1"
    torn = _checkpoint(tmp_path / "torn")
    (torn / "files-00001.json").write_text('{"world": 2, "fil')
    assert damage(torn) == "no list of files by rank 1"


def test_progress_survives_as_json() -> None:
    progress = Progress(2, 7, [0.1, 0.2], 3.5, 0.7, 1, False, [{"epoch": 1.0}], ["w"], LossWatch(9, 1.5, 0.5))
    assert Progress.from_dict(json.loads(json.dumps(asdict(progress)))) == progress


def _found(**changes: object) -> Found:
    return Found(
        **{"folder": Path("c"), "world": 2, "zero_stage": 1, "optimizer": "adamw", "progress": Progress(), **changes}
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "config", "expected"),
    [
        (_found(), TrainConfig(zero_stage=1), True),
        (_found(world=3), TrainConfig(zero_stage=1), False),
        (_found(zero_stage=0), TrainConfig(zero_stage=0), False),
        (_found(zero_stage=0, optimizer="sgd"), TrainConfig(zero_stage=0, optimizer="sgd"), False),
        (_found(world=3, optimizer="sgd"), TrainConfig(optimizer="sgd", zero_stage=1), False),
    ],
)
def test_only_the_files_of_zero_1_to_3_are_converted_for_another_number_of_workers(
    found: Found, config: TrainConfig, expected: bool
) -> None:
    assert found.needs_conversion(config, world=3) == expected


def test_what_cannot_be_gone_on_with_says_what_to_do() -> None:
    with pytest.raises(TrainError, match=r"zero_stage=1, optimizer=adamw.*--fresh"):
        _found().needs_conversion(TrainConfig(zero_stage=2), world=2)
    with pytest.raises(TrainError, match="go on with 2 workers"):
        _found(optimizer="sgd").needs_conversion(TrainConfig(optimizer="sgd", zero_stage=1), world=3)
