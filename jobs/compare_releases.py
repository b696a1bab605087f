"""Compare two releases by what became of what they showed: after a split of the users, or with one in the other's shadow."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from clm_ray.evaluate.releases import compare, markdown
from clm_ray.schema import DAY_US, HOUR_US
from clm_ray.store.clock import open_clock
from clm_ray.store.outcomes import Meaning
from clm_ray.store.store import open_store
from jobs.arguments import open_recipe, parser, run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Print the comparison and write it to ROOT/comparisons/ONE-OTHER.md and .json."""
    options = parser(__doc__ or "")
    options.add_argument("--other", required=True, help="id of the release in args.split or args.shadow")
    options.add_argument("--one", help="id of the release that is served (default: the current one)")
    options.add_argument("--days", type=float, default=28.0, help="how far back to look (default: %(default)s)")
    options.add_argument(
        "--window-hours",
        type=float,
        help="an event answers a slate within so many hours (default: the recipe's, else 24)",
    )
    args = options.parse_args(argv)
    recipe, workspace = open_recipe(args)
    window_us = int((args.window_hours or recipe.impressions.attribution_hours or 24.0) * HOUR_US)
    one = args.one or workspace.current("releases").name
    with open_store(recipe.store.url or workspace.store_url, create=False) as store:
        until = open_clock(store, kind=recipe.serve.clock).now_us() - window_us
        found = compare(
            store,
            one=one,
            other=args.other,
            meaning=Meaning.of(recipe.event_types),
            since=until - int(args.days * DAY_US),
            until=until,
            window_us=window_us,
        )
    folder = workspace.root / "comparisons"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{one}-{args.other}.md"
    path.write_text(markdown(found), encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(found.to_dict(), indent=1), encoding="utf-8")
    print(markdown(found))
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(run_main(main))
