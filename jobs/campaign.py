"""Retention decisions for a segment of users, and a delivery file per channel: win back the churned, say.

    python jobs/campaign.py --recipe R --root ROOT --name win-back-june --stage churned

Writes ROOT/campaigns/NAME/CHANNEL.parquet: who gets what, not before when and not after when. Running it again completes a run that was
cut off, and sends nothing twice. Policy, rules and budget are those of the current release.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from clm_ray.errors import ConfigError
from jobs.arguments import open_recipe, parser, run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Run a campaign. Raises ConfigError: a name that is no file name, no such stage, no release."""
    options = parser(__doc__ or "")
    options.add_argument("--name", required=True, help="name of the campaign: letters, digits, - and _")
    options.add_argument(
        "--stage", action="append", default=[], help="life-cycle stage of the segment; may be repeated"
    )
    options.add_argument("--parts", type=int, default=16, help="parts that the users are worked off in (default: 16)")
    args = options.parse_args(argv)
    recipe, workspace = open_recipe(args)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}", args.name):
        raise ConfigError("is no name", field="--name", value=args.name, fix="letters, digits, - and _")

    from clm_ray.campaign import run_campaign
    from clm_ray.release.read import recipe_of
    from clm_ray.store.clock import open_clock
    from clm_ray.store.store import open_store
    from jobs.session import start_ray

    url = recipe.store.url or workspace.store_url
    with open_store(url, create=False) as store:
        kind = recipe_of(workspace.current("releases")).serve.clock
        now = open_clock(store, kind=kind).now_us()
    start_ray()
    sent = run_campaign(
        workspace, args.name, stages=args.stage or ["churned"], store_url=url, now=now, parts=max(args.parts, 1)
    )
    print(f"{sent.users} users in stages {', '.join(sent.plan.stages)}")
    for channel, rows in sent.channels.items():
        print(f"{channel}: {rows} to deliver, {sent.folder / f'{channel}.parquet'}")
    if not sent.channels:
        print("nothing goes out")


if __name__ == "__main__":
    sys.exit(run_main(main))
