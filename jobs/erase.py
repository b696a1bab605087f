"""Remove users from a workspace: from the store, the feedback, every dataset, evaluation, model and release; and keep them out.

    python jobs/erase.py --recipe R --root ROOT --user 4711 --user 4712
    python jobs/erase.py --recipe R --root ROOT --users-file ids.txt      # one id per line
    python jobs/erase.py --recipe R --root ROOT --pending                 # users whom the endpoint erased from the store

Writes a certificate to ROOT/erasures/, which is the tombstone too: later runs of `prepare` drop what the log still says of the time before it.
Your own log is yours to change. Running it again is harmless, and completes a run that was cut off.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from clm_ray.data.certificate import finish_certificate, start_certificate
from clm_ray.data.erase import erase_files, learned_from
from clm_ray.errors import ConfigError
from clm_ray.privacy import open_pseudonyms
from clm_ray.store.erase import Erased
from clm_ray.store.store import open_store
from jobs.arguments import open_recipe, parser, run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Erase the users that the command line names. Raises ConfigError: nobody named, no such file or workspace, no key for pseudonyms."""
    options = parser(__doc__ or "")
    options.add_argument("--user", dest="users", action="append", default=[], help="id of a user, as your log has it")
    options.add_argument("--users-file", help="text file with one id per line")
    options.add_argument("--pending", action="store_true", help="users whom the endpoint erased from the store alone")
    args = options.parse_args(argv)
    recipe, workspace = open_recipe(args)
    written = sorted({*args.users, *(_lines(args.users_file) if args.users_file else ())})
    if not written and not args.pending:
        raise ConfigError("nobody is named", field="--user", fix="give --user ID, --users-file FILE or --pending")
    if not workspace.root.is_dir():
        raise ConfigError(
            "no such workspace", field="--root", value=str(workspace.root), fix="give the one to erase from"
        )
    pseudonyms = open_pseudonyms(recipe.privacy)
    users = written if pseudonyms is None else [pseudonyms.of(user) for user in written]
    url = recipe.store.url or workspace.store_url
    has_store = bool(recipe.store.url) or (workspace.root / "store.db").is_file()
    if args.pending and has_store:
        with open_store(url, create=False) as store:
            users = sorted({*users, *store.pending_erasures()})
    if not users:
        print("nobody is waiting to be erased")
        return

    now_us = time.time_ns() // 1000
    models = learned_from(workspace, users)
    certificate = start_certificate(workspace.erasures, users, models=models, now_us=now_us)
    stored = Erased({}, [])
    if has_store:
        with open_store(url, create=False) as store:
            stored = store.erase(users, at=now_us + (store.clock_offset() or 0), pending=True)
    files = erase_files(workspace, users, decisions=stored.decisions, written=sorted({*written, *users}))
    if has_store:
        with open_store(url, create=False) as store:
            store.finish_erasures(users)
    finish_certificate(certificate, store=stored.removed, files=files)
    rows = sum(stored.removed.values()), sum(files.values())
    print(f"{len(users)} users: {rows[0]} rows of the store, {rows[1]} rows of {len(files)} files")
    if models.runs:
        print(f"models that have learned from them, until they are trained again: {', '.join(models.runs)}")
    if models.releases:
        print("deploy again: replicas keep the user table of their release in memory")
    print(f"certificate: {certificate}")


def _lines(path: str) -> list[str]:
    try:
        return [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot be read: {error}", field="--users-file", value=path, fix="give a text file"
        ) from error


if __name__ == "__main__":
    sys.exit(run_main(main))
