"""From the interaction log to user sequences: read, clean, quarantine, deduplicate, compute features, split; on Ray Data."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from jobs.arguments import open_recipe, parser, run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Build the workspace's dataset and make it current; prints the data report."""
    args = parser(__doc__ or "").parse_args(argv)
    recipe, workspace = open_recipe(args)

    from clm_ray.data.build import build_dataset
    from clm_ray.data.log import read_log
    from jobs.session import start_ray

    start_ray()
    started = time.monotonic()

    def say(step: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {step}", flush=True)

    say(f"reading the log of {recipe.name}")
    log = read_log(recipe, workspace=workspace, now_us=time.time_ns() // 1000)
    built = build_dataset(log, recipe, workspace, say=say)
    print(built.report.to_text())
    for block, dropped in built.manifest["features"].items():
        for name, reason in dropped.items():
            print(f"  {block} feature {name} dropped: {reason}")
    say(f"dataset {built.folder.name} is current; its report: {built.folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(run_main(main))
