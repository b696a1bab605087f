"""The README's figures come from an evaluation on disk, and nothing else in the README changes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from clm_ray.config.recipe import load_recipe
from clm_ray.errors import ConfigError

ROOT = Path(__file__).parent.parent
LOG = """noise

=== prepare (0 s)
[ 1 s]
=== train (51 s)

=== serve (326 s)

=== recommend: POST /v1/recommend {'user_id': '7'}
(Replica pid=1) INFO {not: ours}
{
  "user_id": "7",
  "items": [
    {"item_id": "a", "probability": 0.123456, "position": 1, "text": null, "matches": ["x", "y", "z", "w"]},
    {"item_id": "b", "probability": 0.1, "position": 2}
  ],
  "retention": {"action": "none", "propensity": 0.5, "masked": null, "probabilities": {"none": 0.5}},
  "retention_reason": null,
  "degraded": []
}

=== feedback: POST /v1/events {}
{
  "accepted": 1
}
  place 1: a 0.1235 → b 0.2

=== done in 400 s
"""
SHOWN = """```text
POST /v1/recommend {'user_id': '7'}
{
  "user_id": "7",
  "items": [
    {"item_id": "a", "probability": 0.1235, "matches": ["x", "y", "z"]},
    {"item_id": "b", "probability": 0.1}
  ],
  "retention": {
    "action": "none",
    "propensity": 0.5,
    "probabilities": {"none": 0.5}
  },
  "degraded": []
}

place 1: a 0.1235 → b 0.2
```"""
README = """before
<!-- results:start -->
stale figures
<!-- results:end -->
between
<!-- output:start -->
<!-- output:end -->
after
"""


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The program, writing its record to a folder of the test."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import readme_results, record

    for module in (readme_results, record):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return readme_results


def _click(auc: float, log_loss: float) -> dict[str, Any]:
    return {"auc": auc, "log_loss": log_loss, "gauc": {"value": auc}, "ece": None}


def _ranking(ndcg: float) -> dict[str, Any]:
    return {"ndcg": {"10": ndcg}, "recall": {"10": ndcg, "50": ndcg}}


def _evaluation(root: Path, *, retention: bool = True) -> Path:
    ranking = {"model": _ranking(0.3), "popularity": _ranking(0.1)}
    come_back = {"model": {"auc": 0.8, "brier": 0.1, "ece": 0.01}, "recency": {"auc": 0.7, "brier": 0.2, "ece": 0.02}}
    metrics = {
        "recipe": "complete_journey",
        "dataset": "data-1",
        "run": "run-1",
        "ks": [10],
        "report_days": [28],
        "clicks": {
            "rows": 1234,
            "occasions": 56,
            "methods": {"model": _click(0.91, 0.2), "popularity": _click(0.7, 0.1)},
            "ranking": ranking,
        },
        "catalogue": ranking,
        "retention": {"28": come_back} if retention else {},
    }
    folder, model = root / "evaluations" / "run-1", root / "runs" / "run-1" / "model"
    for path in (folder, model):
        path.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (model / "training.json").write_text(json.dumps({"git": "abc1234", "epochs": [{"seconds": 3.0}]}), encoding="utf-8")
    (model / "recipe.yaml").write_text(load_recipe("complete_journey").to_yaml(), encoding="utf-8")
    return folder


def _readme(root: Path, text: str = README) -> Path:
    path = root / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_block_is_filled_and_the_rest_stays(program: ModuleType, tmp_path: Path) -> None:
    readme = _readme(tmp_path)
    (tmp_path / "q.log").write_text(LOG, encoding="utf-8")
    arguments = [str(_evaluation(tmp_path)), "--readme", str(readme), "--log", str(tmp_path / "q.log")]
    program.main(arguments)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- results:start -->\n")
    assert "\n<!-- results:end -->\nbetween\n<!-- output:start -->\n" in text
    assert text.endswith(f"\n{SHOWN}\n\n<!-- output:end -->\nafter\n")
    assert "stale figures" not in text
    assert "| click: AUC | **0.9100** | 0.7000 |" in text
    assert "| click: log loss | 0.2000 | **0.1000** |" in text
    assert "| click: calibration error (ECE) | – | – |" in text
    assert "| active within 28 days: AUC | **0.8000** | 0.7000 |" in text
    assert "abc1234" in text
    assert "2 CPU workers" in text
    assert "400 s, of which training 275 s" in text
    program.main(arguments)
    assert readme.read_text(encoding="utf-8") == text


def test_the_record_says_what_was_measured(program: ModuleType, tmp_path: Path) -> None:
    program.main([str(_evaluation(tmp_path)), "--readme", str(_readme(tmp_path))])
    written = json.loads((tmp_path / "results" / "quickstart.json").read_text(encoding="utf-8"))
    assert (written["command"], written["git"]) == ("make quickstart", "abc1234")
    assert set(written["machine"]) >= {"processor", "cores"}
    assert written["date"]
    assert written["figures"]["what to show"]["click: AUC"]["model"] == 0.91
    assert written["figures"]["seconds"] == {"training epochs": 3.0}


def test_without_retention_there_is_no_such_table(program: ModuleType, tmp_path: Path) -> None:
    readme = _readme(tmp_path)
    program.main([str(_evaluation(tmp_path, retention=False)), "--readme", str(readme)])
    assert "who comes back" not in readme.read_text(encoding="utf-8")


def test_seeds_of_movielens_are_shown_where_they_were_measured(program: ModuleType, tmp_path: Path) -> None:
    figures = {
        f"{key}{end}": value for key in ("auc", "log_loss", "gauc", "ece") for end, value in (("", 0.5), ("_sd", 0.25))
    }
    (tmp_path / "results").mkdir()
    quality = {
        "command": "python -m benchmarks.quality",
        "git": "q1",
        "date": "d",
        "figures": {"ml100k.global": figures, "ablations": {"no text": figures}},
    }
    (tmp_path / "results" / "quality.json").write_text(json.dumps(quality), encoding="utf-8")
    readme = _readme(tmp_path)
    program.main([str(_evaluation(tmp_path)), "--readme", str(readme)])
    text = readme.read_text(encoding="utf-8")
    assert "| one cut in time: this model (d, q1) | 0.5000 ± 0.2500 |" in text
    assert "| one cut in time: best deep click model, BST | 0.7625 | 0.5732 |" in text
    assert "| one cut in time: best gradient boosting, LightGBM stream | 0.7893 | 0.5466 |" in text
    assert "last 10 %" not in text, "what was not measured is not shown"


def test_a_readme_without_a_place_is_refused(program: ModuleType, tmp_path: Path) -> None:
    readme = _readme(tmp_path, "<!-- results:end --> <!-- results:start -->")
    with pytest.raises(ConfigError, match="no place"):
        program.main([str(_evaluation(tmp_path)), "--readme", str(readme)])


def test_a_log_of_an_unfinished_run_is_refused(program: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "q.log").write_text(LOG.split("=== done")[0], encoding="utf-8")
    with pytest.raises(ConfigError, match="finished"):
        program.seconds(tmp_path / "q.log")


def test_the_newest_evaluation_is_taken(program: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no evaluation"):
        program.newest(tmp_path / "evaluations")
    folder = _evaluation(tmp_path)
    assert program.newest(tmp_path / "evaluations") == folder


def test_a_log_without_an_answer_is_refused(program: ModuleType) -> None:
    with pytest.raises(ConfigError, match="no answer"):
        program.output(LOG.split('{\n  "user_id"')[0])


@pytest.mark.parametrize("name", ["results", "output"])
def test_our_readme_has_one_place_for_each(program: ModuleType, tmp_path: Path, name: str) -> None:
    copy = _readme(tmp_path, (ROOT / "README.md").read_text(encoding="utf-8"))
    program.fill(copy, name, "figures")
    assert "\n\nfigures\n\n" in copy.read_text(encoding="utf-8")
