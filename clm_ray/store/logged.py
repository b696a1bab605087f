"""Logged decisions and slates of a stretch of time, the newest first."""

from __future__ import annotations

from sqlalchemy import Connection, select

from clm_ray.store.records import RetentionDecision, ServedSlate
from clm_ray.store.tables import RETENTION_DECISIONS, SERVED_SLATES


def logged_decisions(connection: Connection, *, since: int, until: int, most: int) -> list[RetentionDecision]:
    """The decisions made in [since, until) (µs), the newest first, at most `most`."""
    of = RETENTION_DECISIONS.c
    query = select(of.record).where(of.time >= since, of.time < until).order_by(of.time.desc(), of.action_id)
    return [RetentionDecision.from_json(record) for record in connection.execute(query.limit(most)).scalars()]


def logged_slates(connection: Connection, *, since: int, until: int, most: int) -> list[ServedSlate]:
    """The slates served in [since, until) (µs), the newest first, at most `most`."""
    of = SERVED_SLATES.c
    query = select(of.record).where(of.time >= since, of.time < until).order_by(of.seq.desc()).limit(most)
    return [ServedSlate.from_json(record) for record in connection.execute(query).scalars()]
