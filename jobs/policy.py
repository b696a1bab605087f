"""Look at the running policy and change what holds now: kill switch, approvals, stopped actions. Counts from the next request on.

    python jobs/policy.py --recipe R --root ROOT show
    python jobs/policy.py ... kill    --by ann --reason "wrong prices in the mail"
    python jobs/policy.py ... resume  --by ann --reason "prices are right again"
    python jobs/policy.py ... approve --by ann --reason "agreed in the board" --id apr-... --days 90
    python jobs/policy.py ... refuse | revoke --by ann --reason ... --id apr-...
    python jobs/policy.py ... release --by ann --reason ... --key guardrail:complaints:win_back
    python jobs/policy.py ... price   --by ann --reason ... --price 0.8        # of a unit of budget: pacing goes on from there

The endpoint's /v1/policy and /v1/approvals do the same. Every change is in the audit log.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from clm_ray.decide import controls
from clm_ray.errors import ConfigError
from clm_ray.schema import DAY_US
from clm_ray.store.approvals import Status
from clm_ray.store.clock import open_clock
from clm_ray.store.store import Store, open_store
from jobs.arguments import open_recipe, parser, run_main

_RESOLVED: dict[str, Status] = {"approve": "approved", "refuse": "refused", "revoke": "revoked"}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line. Raises ConfigError where something is not said, StoreError where there is no such store or approval."""
    options = parser(__doc__ or "")
    options.add_argument("what", choices=("show", "kill", "resume", *_RESOLVED, "release", "price"))
    options.add_argument("--by", default="", help="who you are")
    options.add_argument("--reason", default="", help="why")
    options.add_argument("--id", default="", help="of the approval")
    options.add_argument("--days", type=float, default=90.0, help="how long an approval holds (default: 90)")
    options.add_argument("--key", default="", help="of the stop, as `show` lists it")
    options.add_argument("--price", type=float, help="of a unit of budget (its Lagrange multiplier), at least 0")
    args = options.parse_args(argv)
    recipe, workspace = open_recipe(args)
    if args.what != "show":
        for name in ("by", "reason"):
            if not getattr(args, name).strip():
                raise ConfigError("is not said", field=f"--{name}", fix="the audit log keeps who and why")
    with open_store(recipe.store.url or workspace.store_url, create=False) as store:
        now = open_clock(store, kind=recipe.serve.clock).now_us()
        if args.what == "show":
            _show(store, now)
        else:
            _change(store, args, now)


def _show(store: Store, now: int) -> None:
    state = controls.read_controls(store, now=now)
    print(
        f"kill switch: {'on: ' + state.killed if state.killed is not None else 'off'}; price of budget {state.price:.4f}"
    )
    for key, control in sorted(state.settings.items()):
        if key.startswith(controls.GUARDRAIL):
            print(f"stopped: {key}: {control.reason}")
    for one in state.approvals:
        until = "" if one.expires_at is None else f" until {datetime.fromtimestamp(one.expires_at / 1e6, UTC):%Y-%m-%d}"
        status = "expired" if one.status == "approved" and not one.in_force(now) else one.status
        print(f"{one.approval_id} {status}{until}: {one.kind} {one.subject} ({one.reason})")


def _change(store: Store, args: argparse.Namespace, now: int) -> None:
    if args.what in ("kill", "resume"):
        controls.set_kill_switch(store, on=args.what == "kill", by=args.by, reason=args.reason, now=now)
        print("every action is stopped" if args.what == "kill" else "actions go on")
    elif args.what == "release":
        freed = controls.release_guardrail(store, args.key, by=args.by, reason=args.reason, now=now)
        print(f"{args.key} is released" if freed else f"{args.key} was not stopped")
    elif args.what == "price":
        if args.price is None or not 0 <= args.price < float("inf"):
            raise ConfigError("is not a price", field="--price", value=args.price, fix="give a number, at least 0")
        controls.set_price(store, args.price, by=args.by, reason=args.reason, now=now)
        print(f"price of budget {args.price:.4f}")
    else:
        done = controls.resolve_approval(
            store,
            args.id,
            status=_RESOLVED[args.what],
            by=args.by,
            now=now,
            expires_at=now + round(args.days * DAY_US) if args.what == "approve" else None,
            note=args.reason,
        )
        print(f"{done.approval_id} is {done.status}: {done.kind} {done.subject}")


if __name__ == "__main__":
    sys.exit(run_main(main))
