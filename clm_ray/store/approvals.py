"""Approvals: somebody asks, somebody else says yes for a time, or no. Nothing is approved that is not found here, approved and not expired."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Row, select, update

from clm_ray.errors import StoreError
from clm_ray.store.engine import insert
from clm_ray.store.tables import APPROVALS

Status = Literal["pending", "approved", "refused", "revoked"]


@dataclass(frozen=True)
class Approval:
    """One question and what became of it. Times in µs; `expires_at`: until when an approval holds, None while it was not given."""

    approval_id: str
    kind: str
    subject: str
    reason: str
    requested_at: int
    requested_by: str
    status: Status
    decided_at: int | None
    decided_by: str | None
    expires_at: int | None
    note: str

    def in_force(self, now: int) -> bool:
        """Whether it says yes at this moment."""
        return self.status == "approved" and self.expires_at is not None and now < self.expires_at


def approval_id_of(kind: str, subject: str) -> str:
    """The id of the one approval about this subject."""
    return "apr-" + hashlib.sha256(f"{len(kind)}:{kind}:{subject}".encode()).hexdigest()[:24]


def approvals(connection: Connection) -> list[Approval]:
    """All of them, the latest asked first."""
    of = APPROVALS.c
    return [
        _read(row) for row in connection.execute(select(APPROVALS).order_by(of.requested_at.desc(), of.approval_id))
    ]


def request(connection: Connection, asked: Sequence[tuple[str, str, str]], *, by: str, now: int) -> list[Approval]:
    """Ask for (kind, subject, reason), unless that was asked before; an approval that has expired is pending again. Returns what is new."""
    of = APPROVALS.c
    new = []
    for kind, subject, reason in asked:
        approval_id = approval_id_of(kind, subject)
        row = {"kind": kind, "subject": subject, "reason": reason, "requested_at": now, "requested_by": by}
        fresh = {**row, "status": "pending", "note": "", "decided_at": None, "decided_by": None, "expires_at": None}
        statement = insert(connection, APPROVALS).values(approval_id=approval_id, **fresh)
        written = connection.execute(statement.on_conflict_do_nothing(index_elements=["approval_id"])).rowcount
        if not written:
            expired = (of.approval_id == approval_id) & (of.status == "approved") & (of.expires_at <= now)
            written = connection.execute(update(APPROVALS).where(expired).values(fresh)).rowcount
        if written:
            new.append(_one(connection, approval_id))
    return new


def resolve(
    connection: Connection, approval_id: str, *, status: Status, by: str, now: int, expires_at: int | None, note: str
) -> Approval:
    """Approve, refuse or revoke. Raises StoreError: no such approval; approved without an end, or with one that has passed."""
    before = _one(connection, approval_id)
    if status == "approved" and (expires_at is None or expires_at <= now):
        raise StoreError(
            "an approval needs a moment at which it expires, in the future",
            field="expires_at",
            value=expires_at,
            fix="give a later one",
        )
    if status == "revoked" and not before.in_force(now):
        raise StoreError("is not in force", field="approval_id", value=approval_id, fix="refuse it instead")
    change = update(APPROVALS).where(APPROVALS.c.approval_id == approval_id)
    new = {"status": status, "decided_at": now, "decided_by": by, "note": note}
    connection.execute(change.values(**new, expires_at=expires_at if status == "approved" else None))
    return _one(connection, approval_id)


def _one(connection: Connection, approval_id: str) -> Approval:
    row = connection.execute(select(APPROVALS).where(APPROVALS.c.approval_id == approval_id)).one_or_none()
    if row is None:
        raise StoreError(
            "there is no such approval", field="approval_id", value=approval_id, fix="list them with GET /v1/approvals"
        )
    return _read(row)


def _read(row: Row[tuple[object, ...]]) -> Approval:
    return Approval(**{name: row._mapping[name] for name in Approval.__dataclass_fields__})
