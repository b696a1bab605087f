"""Write what the endpoint recorded (events, served slates) back as Parquet, for the next `prepare` to read with the log."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from clm_ray.store.compact import compact
from clm_ray.store.store import open_store
from jobs.arguments import open_recipe, parser, run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Compact the workspace's store into ROOT/feedback. Running it again writes only what is new."""
    args = parser(__doc__ or "").parse_args(argv)
    recipe, workspace = open_recipe(args)
    with open_store(recipe.store.url or workspace.store_url, create=False) as store:
        done = compact(store, workspace.feedback, impression_event=recipe.serve.impression_event)
    for name in done.parts:
        print(f"wrote {workspace.feedback}/events/{name}")
    print(f"{done.events} events, {done.impressions} impressions of {done.slate_items} items since the last run")
    if done.changed_items:
        print(f"{done.changed_items} items that were put or deleted over HTTP, for the next dataset's catalogue")


if __name__ == "__main__":
    sys.exit(run_main(main))
