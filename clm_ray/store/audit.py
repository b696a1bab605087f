"""The audit log: append-only, each entry chained to the one before it by its hash, verifiable after users were erased.

    digest = HMAC-SHA256(the user's key, JSON [user id, content])       SHA-256 of the same for entries about nobody
    hash   = SHA-256(hash of the entry before · JSON [seq, time, kind, digest])

The chain is over digests, not over what they digest. Erasing a user blanks user and content of their entries and destroys their key, so that
a digest can no longer be tried against guesses; the chain stays whole. An erasure is an entry too, with how many entries it blanked:
content that vanished otherwise is found out. The database refuses any other change (triggers, migrations/versions/r0002_audit_log.py).

Somebody who may rewrite the whole database can make a new chain. Note heads (`AuditHead`) elsewhere now and then, and give one to `verify`.
Booked decisions and their overrides are entered by the store itself; everything else by `Store.append_audit`.
`python -m clm_ray.store.audit URL` verifies and says what it found.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row, delete, select, update

from clm_ray.errors import ClmError, StoreError
from clm_ray.store.engine import Lock, chunks, hold, insert, make_engine, reading
from clm_ray.store.migrate import ensure_tables
from clm_ray.store.tables import AUDIT_KEYS, AUDIT_LOG, RETENTION_DECISIONS

DECISION = "decision"
"""Kind of the entry that booking a retention decision makes; content: action_id, action, propensity and the record's digest."""
OVERRIDE = "override"
"""Kind of the entry that overriding one makes; content: action_id, action, rule."""
ERASURE = "erasure"
"""Kind of the entry that an erasure makes; content: entries, how many were blanked."""
_START = "0" * 64
_PAGE = 1000
_MOST_PROBLEMS = 100


@dataclass(frozen=True)
class AuditEntry:
    """What happened (`kind`), when (µs), with which particulars (JSON), and to whom: None where it concerns no single user.

    Content of an entry with a user goes when the user is erased; content of one without stays for good, so it must not name anybody.
    """

    kind: str
    time: int
    content: Mapping[str, Any]
    user_id: str | None = None


@dataclass(frozen=True)
class AuditHead:
    """The newest entry: its number (0: there is none) and its hash, which stands for everything before it."""

    seq: int
    hash: str


@dataclass(frozen=True)
class AuditReport:
    """What a verification found. entries: in the chain; erased: of these without content; problems: none, or what is wrong where."""

    entries: int
    erased: int
    head: AuditHead
    problems: tuple[str, ...]


def append(connection: Connection, entries: Sequence[AuditEntry]) -> AuditHead:
    """Add entries to the end of the chain; returns the new head.

    Holds the log for this process until the transaction ends: call it last.
    """
    hold(connection, Lock.AUDIT)
    head = head_of(connection)
    keys = _keys_for(connection, [entry.user_id for entry in entries if entry.user_id is not None])
    rows = []
    for entry in entries:
        content = orjson.dumps(dict(entry.content), option=orjson.OPT_SORT_KEYS).decode()
        digest = _digest(content, user_id=entry.user_id, key=keys.get(entry.user_id or ""))
        head = _next(head, time=entry.time, kind=entry.kind, digest=digest)
        rows.append(
            {
                "seq": head.seq,
                "time": entry.time,
                "kind": entry.kind,
                "user_id": entry.user_id,
                "content": content,
                "digest": digest,
                "hash": head.hash,
            }
        )
    if rows:
        connection.execute(insert(connection, AUDIT_LOG), rows)
    return head


def head_of(connection: Connection) -> AuditHead:
    """The newest entry."""
    of = AUDIT_LOG.c
    row = connection.execute(select(of.seq, of.hash).order_by(of.seq.desc()).limit(1)).one_or_none()
    return AuditHead(0, _START) if row is None else AuditHead(row.seq, row.hash)


def blank(connection: Connection, user_ids: Sequence[str], *, now: int) -> tuple[int, int]:
    """Erase these users from the log: their ids, contents and keys. Returns how many entries were blanked and keys destroyed."""
    hold(connection, Lock.AUDIT)
    entries = keys = 0
    for part in chunks(dict.fromkeys(user_ids)):
        blanked = update(AUDIT_LOG).where(AUDIT_LOG.c.user_id.in_(part)).values(user_id=None, content=None)
        entries += connection.execute(blanked).rowcount
        keys += connection.execute(delete(AUDIT_KEYS).where(AUDIT_KEYS.c.user_id.in_(part))).rowcount
    if entries:
        append(connection, [AuditEntry(ERASURE, now, {"entries": entries})])
    return entries, keys


def verify(connection: Connection, *, known: AuditHead | None = None) -> AuditReport:
    """Check every entry: numbers without gaps, hashes, digests of the contents that are there, and the decision records they speak of.

    `known`: a head noted earlier; the chain must still contain it.
    """
    head, entries, erased, announced = AuditHead(0, _START), 0, 0, 0
    problems: list[str] = []
    for page in _pages(connection):
        keys = _keys(connection, [row.user_id for row in page if row.user_id is not None])
        for row in page:
            expected = _next(AuditHead(row.seq - 1, head.hash), time=row.time, kind=row.kind, digest=row.digest)
            if row.seq != head.seq + 1:
                problems.append(f"entries {head.seq + 1} to {row.seq - 1} are missing")
            elif row.hash != expected.hash:
                problems.append(f"entry {row.seq} does not follow from the one before it")
            if row.content is None:
                erased += 1
            elif row.digest != _digest(row.content, user_id=row.user_id, key=keys.get(row.user_id or "")):
                problems.append(f"entry {row.seq}: user or content is not what was entered")
            if row.kind == ERASURE and row.content is not None:
                announced += int(orjson.loads(row.content)["entries"])
            if known is not None and row.seq == known.seq and row.hash != known.hash:
                problems.append(f"entry {row.seq} is not the one that was noted")
            head = AuditHead(row.seq, row.hash)
        entries += len(page)
        problems += _changed_records(connection, page)
    if erased != announced:
        problems.append(f"{erased} entries have no content, but erasures blanked {announced}")
    if known is not None and known.seq > head.seq:
        problems.append(f"the log ends at entry {head.seq}, before the noted {known.seq}")
    return AuditReport(entries, erased, head, tuple(problems[:_MOST_PROBLEMS]))


def record_digest(record: str) -> str:
    """SHA-256 of a stored decision as it was booked: what was overridden later does not change it."""
    raw = orjson.loads(record)
    raw.pop("overrides", None)
    return hashlib.sha256(orjson.dumps(raw, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _next(head: AuditHead, *, time: int, kind: str, digest: str) -> AuditHead:
    text = orjson.dumps([head.seq + 1, time, kind, digest])
    return AuditHead(head.seq + 1, hashlib.sha256(head.hash.encode() + text).hexdigest())


def _digest(content: str, *, user_id: str | None, key: bytes | None) -> str:
    """Where the key of a user's entry is missing, nothing fits."""
    text = orjson.dumps([user_id, content])
    if user_id is None:
        return hashlib.sha256(text).hexdigest()
    return "" if key is None else hmac.new(key, text, hashlib.sha256).hexdigest()


def _keys_for(connection: Connection, user_ids: Sequence[str]) -> dict[str, bytes]:
    """The users' keys; new ones are made (whoever makes keys holds the log, so nobody makes them twice)."""
    keys = _keys(connection, user_ids)
    new = {user: secrets.token_bytes(32) for user in dict.fromkeys(user_ids) if user not in keys}
    if new:
        connection.execute(insert(connection, AUDIT_KEYS), [{"user_id": u, "key": key} for u, key in new.items()])
    return keys | new


def _keys(connection: Connection, user_ids: Sequence[str]) -> dict[str, bytes]:
    keys: dict[str, bytes] = {}
    for part in chunks(dict.fromkeys(user_ids)):
        query = select(AUDIT_KEYS.c.user_id, AUDIT_KEYS.c.key).where(AUDIT_KEYS.c.user_id.in_(part))
        keys.update((row.user_id, bytes(row.key)) for row in connection.execute(query))
    return keys


def _pages(connection: Connection) -> Iterator[Sequence[Row[Any]]]:
    of, after = AUDIT_LOG.c, 0
    while page := connection.execute(select(AUDIT_LOG).where(of.seq > after).order_by(of.seq).limit(_PAGE)).all():
        yield page
        after = page[-1].seq


def _changed_records(connection: Connection, page: Sequence[Row[Any]]) -> Iterator[str]:
    """What is wrong with the decisions that these entries speak of."""
    entered: dict[str, tuple[int, str]] = {}
    for row in page:
        if row.kind == DECISION and row.content is not None:
            content = orjson.loads(row.content)
            entered[content["action_id"]] = (row.seq, content["record"])
    stored: dict[str, str] = {}
    for part in chunks(entered):
        of = RETENTION_DECISIONS.c
        query = select(of.action_id, of.record).where(of.action_id.in_(part))
        stored.update((row.action_id, row.record) for row in connection.execute(query))
    for action_id, (seq, digest) in entered.items():
        if action_id not in stored:
            yield f"entry {seq}: decision {action_id} is gone"
        elif record_digest(stored[action_id]) != digest:
            yield f"entry {seq}: decision {action_id} was changed"


def main(argv: Sequence[str] | None = None) -> None:
    """Verify the log at a URL and say what was found. Raises StoreError where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m clm_ray.store.audit", description="Verify a store's audit log.")
    parser.add_argument("url", help="SQLAlchemy URL of the store")
    parser.add_argument("--known", help="a head noted earlier, as SEQ:HASH", metavar="SEQ:HASH")
    args = parser.parse_args(argv)
    known = None
    if args.known:
        seq, _, digest = args.known.partition(":")
        if not seq.isdecimal():
            raise StoreError(
                "not a head", field="--known", value=args.known, fix="give SEQ:HASH as this command printed it"
            )
        known = AuditHead(int(seq), digest)
    engine = make_engine(args.url, create=False, connections=1)
    try:
        ensure_tables(engine, create=False)
        with reading(engine) as connection:
            report = verify(connection, known=known)
    finally:
        engine.dispose()
    print(f"{report.entries} entries, {report.erased} of them erased; head {report.head.seq}:{report.head.hash}")
    if report.problems:
        raise StoreError("the audit log is damaged: " + "; ".join(report.problems), fix="compare with a backup")


if __name__ == "__main__":
    try:
        main()
    except ClmError as error:
        sys.exit(str(error))
