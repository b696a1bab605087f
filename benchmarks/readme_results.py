"""The README's results, from an evaluation on disk: `python -m benchmarks.readme_results [EVALUATION] [--log quickstart.log]`.

Fills README.md between the two `results` comments and writes benchmarks/results/quickstart.json. EVALUATION is a folder that
`evaluate` wrote (default: the newest of workspaces/complete_journey). With the printed output of `make quickstart` as --log, the seconds of
every stage are recorded, and the recommendation it shows is put between the two `output` comments. MovieLens figures are added where
benchmarks/results/quality.json holds them.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare import peers
from benchmarks.record import RESULTS, record
from clm_ray.config.recipe import load_recipe
from clm_ray.errors import ConfigError
from clm_ray.evaluate.baselines import TITLES
from clm_ray.evaluate.tables import number
from jobs.arguments import run_main

COMMAND = "make quickstart"
ROOT = Path(__file__).parent.parent
KEPT: Mapping[str, tuple[str, ...]] = {
    "items": ("item_id", "probability", "text", "matches"),
    "profile": ("stage", "why", "chance_active", "recency_days", "frequency", "monetary", "tenure_days", "interests"),
    "retention": ("action_id", "action", "propensity", "probabilities", "reason"),
}
"""What the README shows of an answer's parts; other parts are shown whole."""
_LONGEST = 3
"""Entries shown of a list."""
_STAGE = re.compile(r"^=== (?:done in (?P<total>\d+) s|(?P<stage>\w+) \((?P<at>\d+) s\))", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """One figure of every method; `best`: which of two values is the better one (None: neither)."""

    title: str
    values: Mapping[str, float]
    best: Any


def main(argv: Sequence[str] | None = None) -> None:
    """Read, record, fill."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("evaluation", nargs="?", type=Path, help="folder with metrics.json")
    options.add_argument("--log", type=Path, help="what `make quickstart` printed")
    options.add_argument("--readme", type=Path, default=ROOT / "README.md", help="(default: %(default)s)")
    args = options.parse_args(argv)
    evaluation = args.evaluation or newest(ROOT / "workspaces" / "complete_journey" / "evaluations")
    metrics = _json(evaluation / "metrics.json")
    model = evaluation.parent.parent / "runs" / metrics["run"] / "model"
    training = _json(model / "training.json")
    trained = load_recipe(str(model / "recipe.yaml")).train
    figures = {
        "recipe": metrics["recipe"],
        "dataset": metrics["dataset"],
        "run": metrics["run"],
        "candidates": metrics["clicks"]["rows"],
        "occasions": metrics["clicks"]["occasions"],
        "workers": f"{trained.num_workers} {'GPU' if trained.use_gpu else 'CPU'} workers",
        "seconds": seconds(args.log) | {"training epochs": round(sum(e["seconds"] for e in training["epochs"]), 1)},
        **{name: {row.title: dict(row.values) for row in rows} for name, rows in tables(metrics).items()},
    }
    at = time.gmtime((evaluation / "metrics.json").stat().st_mtime)
    date = time.strftime("%Y-%m-%d", at)
    written = _json(record("quickstart", figures, command=COMMAND, git=training["git"], date=date))
    quality = RESULTS / "quality.json"
    fill(args.readme, "results", block(metrics, written, _json(quality) if quality.is_file() else None))
    if args.log is not None:
        fill(args.readme, "output", output(args.log.read_text(encoding="utf-8")))
    print(f"filled {args.readme}")


def newest(evaluations: Path) -> Path:
    """The evaluation written last. Raises ConfigError where there is none."""
    found = sorted(evaluations.glob("*/metrics.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError("no evaluation", field="evaluation", value=str(evaluations), fix=f"run {COMMAND} first")
    return found[-1].parent


def tables(metrics: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Table name → its rows; a row's values are method → figure, methods in the order of the report."""
    clicks, k = metrics["clicks"], str(metrics["ks"][0])

    def row(title: str, methods: Mapping[str, Any], *path: str, best: Any = max) -> Row:
        return Row(title, {name: _at(one, path) for name, one in methods.items()}, best)

    found = {
        "what to show": [
            row("click: AUC", clicks["methods"], "auc"),
            row("click: log loss", clicks["methods"], "log_loss", best=min),
            row("click: AUC within each user (GAUC)", clicks["methods"], "gauc", "value"),
            row("click: calibration error (ECE)", clicks["methods"], "ece", best=min),
            row(f"NDCG@{k} among all that was on offer", clicks["ranking"], "ndcg", k),
            *(
                row(f"{title}@{at} in the whole catalogue", metrics["catalogue"], field, at)
                for title, field, at in (("NDCG", "ndcg", k), ("Recall", "recall", k), ("Recall", "recall", "50"))
                if at in metrics["catalogue"]["model"][field]
            ),
        ]
    }
    horizons = {str(days): metrics["retention"][str(days)] for days in metrics["report_days"] if metrics["retention"]}
    if horizons:
        found["who comes back"] = [
            row(f"active within {days} days: {title}", methods, field, best=best)
            for days, methods in horizons.items()
            for title, field, best in (("AUC", "auc", max), ("Brier", "brier", min), ("ECE", "ece", min))
        ]
    return found


def seconds(log: Path | None) -> dict[str, int]:
    """Stage → seconds, and the total, from what the pipeline printed; empty without a log.

    Raises ConfigError for a log that does not end with a finished run.
    """
    if log is None:
        return {}
    marks = list(_STAGE.finditer(log.read_text(encoding="utf-8")))
    if not marks or marks[-1]["total"] is None:
        raise ConfigError("holds no finished run", field="--log", value=str(log), fix=f"{COMMAND} | tee {log.name}")
    starts = [(mark["stage"], int(mark["at"])) for mark in marks if mark["stage"] and mark["at"]]
    ends = [at for _, at in starts[1:]] + [int(marks[-1]["total"])]
    return {
        **{name: end - at for (name, at), end in zip(starts, ends, strict=True)},
        "total": int(marks[-1]["total"]),
    }


def block(metrics: Mapping[str, Any], written: Mapping[str, Any], quality: Mapping[str, Any] | None) -> str:
    """The Markdown between the comments."""
    figures, machine = written["figures"], written["machine"]
    spent = figures["seconds"]
    took = f" It took {spent['total']} s, of which training {spent['train']} s." if "total" in spent else ""
    lines = [
        f"Written by `python -m benchmarks.readme_results` from a run of `{written['command']}` on {written['date']}, "
        f"revision {written['git']}: {machine['cores']} cores ({machine['processor']}), {figures['workers']}.{took} "
        f"Test: {figures['candidates']:,} candidates on {figures['occasions']:,} occasions. Bold: best of the row."
    ]
    lines += [_table(title, rows) for title, rows in tables(metrics).items()]
    if quality is not None:
        lines.append(_quality(quality))
    return "\n\n".join(lines)


def output(log: str) -> str:
    """The answer that the pipeline printed, trimmed to KEPT and rounded, and what the feedback changed. Raises ConfigError."""
    shown = log.partition("\n=== recommend:")[2]
    asked, _, rest = shown.partition("\n")
    try:
        answer, _ = json.JSONDecoder().raw_decode(rest[rest.index("\n{") + 1 :] if not rest.startswith("{") else rest)
    except ValueError as error:
        raise ConfigError(
            "holds no answer", field="--log", value=asked, fix=f"{COMMAND} | tee quickstart.log"
        ) from error
    after = [line.strip() for line in rest.splitlines() if line.startswith("  place ")]
    lines = [f"{asked.strip()}", *_lines({k: _trimmed(k, v) for k, v in answer.items() if v is not None}), "", *after]
    return "\n".join(["```text", *lines, "```"])


def _trimmed(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_trimmed(name, one) for one in value[:_LONGEST]]
    if isinstance(value, dict):
        kept = KEPT.get(name, tuple(value))
        return {key: _trimmed("", value[key]) for key in kept if value.get(key) is not None}
    return round(value, 4) if isinstance(value, float) else value


def _lines(answer: Mapping[str, Any]) -> list[str]:
    """JSON with one line for each part, and one for each entry of a part."""
    lines = []
    for name, value in answer.items():
        if isinstance(value, dict):
            lines += [f'  "{name}": {{', *_listed([f'"{k}": {json.dumps(v)}' for k, v in value.items()]), "  },"]
        elif isinstance(value, list) and value:
            lines += [f'  "{name}": [', *_listed([json.dumps(one) for one in value]), "  ],"]
        else:
            lines.append(f'  "{name}": {json.dumps(value)},')
    return ["{", *lines[:-1], lines[-1].removesuffix(","), "}"]


def _listed(entries: Sequence[str]) -> list[str]:
    return [f"    {entry}{',' if n < len(entries) else ''}" for n, entry in enumerate(entries, start=1)]


def fill(readme: Path, name: str, text: str) -> None:
    """Put `text` between the comments `name`:start and `name`:end. Raises ConfigError unless they are there once each, in order."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    old = readme.read_text(encoding="utf-8")
    if old.count(start) != 1 or old.count(end) != 1 or old.index(start) > old.index(end):
        raise ConfigError(
            f"has no place for the {name}", field="--readme", value=str(readme), fix=f"write {start} and {end} into it"
        )
    before, after = old.split(start)[0], old.split(end)[1]
    readme.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def _table(title: str, rows: Sequence[Row]) -> str:
    methods = [name for name in TITLES if name in rows[0].values]
    lines = [[title, *(TITLES[name] for name in methods)], ["---", *["---:"] * len(methods)]]
    for row in rows:
        known = [value for value in row.values.values() if not math.isnan(value)]
        best = number(row.best(known)) if known else None
        cells = [number(row.values[name]) for name in methods]
        lines.append([row.title, *(f"**{cell}**" if cell == best else cell for cell in cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _quality(quality: Mapping[str, Any]) -> str:
    names = {"ml100k.global": "one cut in time", "ml100k.per_user": "each user's last 10 %"}
    keys = ("auc", "log_loss", "gauc", "ece")
    lines = [
        "MovieLens-100K by `python -m benchmarks.quality`, mean ± standard deviation of three seeds, beside others on the same rows:",
        "",
        "| test rows | AUC | log loss | GAUC | ECE |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, title in names.items():
        if (figures := quality["figures"].get(name)) is None:
            continue
        cells = [f"{figures[key]:.4f} ± {figures[f'{key}_sd']:.4f}" for key in keys]
        made = f"{figures.get('date', quality['date'])}, {figures.get('git', quality['git'])}"
        lines.append(f"| {title}: this model ({made}) | {' | '.join(cells)} |")
        for kind, whose in (("deep", "best deep click model"), ("trees", "best gradient boosting")):
            best = max((row for row in peers(name) if row["kind"] == kind), key=lambda row: float(row["auc"]))
            cells = [f"{float(best[key]):.4f}" for key in keys]
            lines.append(f"| {title}: {whose}, {best['model']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _at(one: Any, path: Sequence[str]) -> float:
    for name in path:
        one = one[name]
    return float("nan") if one is None else float(one)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("cannot be read", field="evaluation", value=str(path), fix=f"run {COMMAND} first") from error


if __name__ == "__main__":
    sys.exit(run_main(main))
