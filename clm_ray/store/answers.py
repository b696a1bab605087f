"""Answers kept under the key of their request, so that a repeated request gets the same answer and books nothing again.

    claim ─▶ (the answer is made) ─▶ keep, in the transaction that logs its slate
                                  └▶ release, where there is none

A key is claimed by one caller at a time, for a while: should that caller die, another may take the key over when the while is over. Who has
lost a claim keeps and logs nothing. Keys and requests are known by digests; answers go when they expire, and with their user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, delete, select, update

from clm_ray.store.engine import Lock, chunks, hold, insert
from clm_ray.store.tables import KEPT_ANSWERS

_AT_ONCE = 1000
"""Expired answers that one call forgets."""
_TRIES = 5
"""How often a key is claimed whose row goes between our finding it there and reading it."""


@dataclass(frozen=True)
class Claim:
    """Who wants to answer what. key, body: digests; token: of this attempt; user_id: None where nobody is known; times: µs."""

    key: str
    body: str
    token: str
    user_id: str | None
    claimed_until: int
    expires_at: int


@dataclass(frozen=True)
class Claimed:
    """mine: answer it. kept: here is the answer. busy: somebody is answering it. other: the key belongs to another request."""

    status: Literal["mine", "kept", "busy", "other"]
    answer: str | None = None


@dataclass(frozen=True)
class Kept:
    """An answer to be kept. decision_id: of the slate that is logged with it, None for none."""

    key: str
    token: str
    answer: str
    decision_id: str | None


def claim(connection: Connection, claims: Sequence[Claim], *, now: int) -> list[Claimed]:
    """What can be done for each, in order. Answers that have expired by `now` (µs) are forgotten first."""
    if not claims:
        return []
    of = KEPT_ANSWERS.c
    hold(connection, Lock.APPEND, shared=True)  # an erasure finds every claim of its users
    expired = select(of.key).where(of.expires_at <= now).limit(_AT_ONCE).with_for_update(skip_locked=True)
    connection.execute(delete(KEPT_ANSWERS).where(of.key.in_(expired.scalar_subquery())))
    found = _rows(connection, claims)
    result = []
    for one in claims:
        row = found.get(one.key)
        if row is None:
            result.append(Claimed("busy"))
        elif row.token == one.token:
            result.append(Claimed("mine"))
        elif row.body != one.body:
            result.append(Claimed("other"))
        elif row.answer is not None:
            result.append(Claimed("kept", row.answer))
        elif row.claimed_until > now:
            result.append(Claimed("busy"))
        else:
            values = {"token": one.token, "claimed_until": one.claimed_until, "expires_at": one.expires_at}
            connection.execute(update(KEPT_ANSWERS).where(of.key == one.key).values(values))
            result.append(Claimed("mine"))
    return result


def _rows(connection: Connection, claims: Sequence[Claim]) -> dict[str, Row[Any]]:
    """Key → its row, locked: ours where there was none. On PostgreSQL a row that was in our way may be gone when it is read (released, or expired):
    then we claim again; a key that is as busy as that time after time is left out."""
    found: dict[str, Row[Any]] = {}
    of = KEPT_ANSWERS.c
    for _ in range(_TRIES):
        left = sorted((one for one in claims if one.key not in found), key=lambda one: one.key)
        if not left:
            break
        rows = [{**vars(one), "answer": None} for one in left]
        connection.execute(insert(connection, KEPT_ANSWERS).on_conflict_do_nothing(index_elements=["key"]), rows)
        for part in chunks(one.key for one in left):
            query = select(KEPT_ANSWERS).where(of.key.in_(part)).order_by(of.key).with_for_update()
            found.update((row.key, row) for row in connection.execute(query))
    return found


def kept(connection: Connection, keys: Sequence[str], *, body: str, now: int) -> dict[str, str]:
    """The answers that are kept under these keys for this body, by key; `now` (µs): less those that have expired."""
    of = KEPT_ANSWERS.c
    found: dict[str, str] = {}
    for part in chunks(keys):
        mine = select(of.key, of.answer).where(of.key.in_(part), of.body == body, of.expires_at > now)
        found.update((row.key, row.answer) for row in connection.execute(mine.where(of.answer.is_not(None))))
    return found


def keep(connection: Connection, answers: Sequence[Kept]) -> set[str]:
    """Keep each answer whose claim still holds; the keys of the others."""
    lost = set()
    of = KEPT_ANSWERS.c
    for one in sorted(answers, key=lambda one: one.key):
        change = update(KEPT_ANSWERS).where(of.key == one.key, of.token == one.token, of.answer.is_(None))
        if not connection.execute(change.values(answer=one.answer)).rowcount:
            lost.add(one.key)
    return lost


def release(connection: Connection, tokens: Sequence[str]) -> None:
    """Give back the claims of these attempts that came to nothing."""
    of = KEPT_ANSWERS.c
    for part in chunks(tokens):
        connection.execute(delete(KEPT_ANSWERS).where(of.token.in_(part), of.answer.is_(None)))
