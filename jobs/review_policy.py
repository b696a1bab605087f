"""Look at what the retention policy did: learn uplifts against the holdout, check the guardrails, compare groups of users.

    python jobs/review_policy.py --recipe R --root ROOT            # daily, say

Updates the uplifts that decisions go by, stops what breaks a bound (docs/policy.md), and writes ROOT/policy_reviews/TIME.json and .md. With
--look nothing is changed: report only.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.arguments import open_recipe, parser, run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Review the decisions of the workspace's store. Raises ConfigError without a release, StoreError without a store."""
    options = parser(__doc__ or "")
    options.add_argument("--look", action="store_true", help="change nothing: neither uplifts nor stops")
    args = options.parse_args(argv)
    recipe, workspace = open_recipe(args)

    from clm_ray.decide.review import review, write_review
    from clm_ray.release.read import recipe_of
    from clm_ray.store.clock import open_clock
    from clm_ray.store.store import open_store

    release = workspace.current("releases")
    served = recipe_of(release)
    with open_store(recipe.store.url or workspace.store_url, create=False) as store:
        now = open_clock(store, kind=served.serve.clock).now_us()
        found = review(store, release=release, recipe=served, now=now, change=not args.look)
    path = write_review(found, workspace.root / "policy_reviews")
    for finding in found.findings:
        if finding.stops:
            print(f"stop: {finding.guardrail} {finding.action}: {finding.text}")
    print(f"{found.decisions} decisions, {found.due} with an outcome; report: {path}")


if __name__ == "__main__":
    sys.exit(run_main(main))
