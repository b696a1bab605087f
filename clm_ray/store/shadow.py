"""The log of what a release that is only watched would have answered."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from clm_ray.store.engine import Lock, chunks, hold, insert
from clm_ray.store.records import ShadowSlate
from clm_ray.store.store import Store
from clm_ray.store.tables import SERVED_SLATES, SHADOW_SLATES


def log_shadows(store: Store, slates: Sequence[ShadowSlate]) -> int:
    """Log each unless it is there, or the answer that it belongs to is not (its user was erased meanwhile). Returns how many were new."""
    with store.writing() as connection:
        hold(connection, Lock.APPEND, shared=True)
        known: set[str] = set()
        for part in chunks([slate.decision_id for slate in slates]):
            query = select(SERVED_SLATES.c.decision_id).where(SERVED_SLATES.c.decision_id.in_(part))
            known.update(connection.execute(query).scalars())
        rows = [
            {"decision_id": s.decision_id, "release_id": s.release_id, "user_id": s.user_id, "record": s.to_json()}
            for s in sorted(slates, key=lambda s: s.decision_id)
            if s.decision_id in known
        ]
        if not rows:
            return 0
        statement = insert(connection, SHADOW_SLATES).on_conflict_do_nothing().returning(SHADOW_SLATES.c.decision_id)
        return len(connection.execute(statement, rows).scalars().all())


def shadows_of(store: Store, decision_ids: Sequence[str], *, release: str) -> dict[str, ShadowSlate]:
    """What `release` would have answered, by decision_id."""
    found = {}
    of = SHADOW_SLATES.c
    with store.reading() as connection:
        for part in chunks(dict.fromkeys(decision_ids)):
            query = select(of.record).where(of.decision_id.in_(part), of.release_id == release)
            for record in connection.execute(query).scalars():
                slate = ShadowSlate.from_json(record)
                found[slate.decision_id] = slate
    return found
