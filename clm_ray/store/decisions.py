"""The statements behind booking retention decisions and logging slates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace

import orjson
from sqlalchemy import Connection, bindparam, func, select, tuple_, update

from clm_ray.config.policy import NO_ACTION
from clm_ray.errors import StoreError
from clm_ray.store import ledger
from clm_ray.store.audit import DECISION, OVERRIDE, AuditEntry, record_digest
from clm_ray.store.engine import chunks, insert
from clm_ray.store.erase import standing
from clm_ray.store.leases import Holder
from clm_ray.store.records import Override, RetentionDecision, ServedSlate
from clm_ray.store.tables import RETENTION_DECISIONS, SERVED_SLATES

FORGONE = "erasure"
"""Rule of the override of a decision that is not stored: its user was erased after it was asked for."""


def book(
    connection: Connection, decisions: Sequence[RetentionDecision], *, holder: Holder, audited: list[AuditEntry]
) -> list[RetentionDecision]:
    """Insert each decision unless its (user, epoch) has one, settle what was reserved for it, and return what is stored.

    `holder`: whose lease gets what was reserved and is not spent. What the audit log has to say of it is added to `audited`. A decision of the time
    before its user was erased is left out, and `none` in what is returned; what was reserved for it serves the user's next decision of that epoch, or is
    released once it is too old, as after a crash.
    """
    erased = standing(connection, (decision.user_id for decision in decisions))
    first: dict[tuple[str, int], RetentionDecision] = {}
    for decision in sorted(
        decisions, key=lambda d: (d.user_id, d.epoch)
    ):  # one order for all: no two wait for each other
        if decision.time >= erased.get(decision.user_id, decision.time):
            first.setdefault((decision.user_id, decision.epoch), decision)
    records = {key: decision.to_json() for key, decision in first.items()}
    rows = [
        {
            "action_id": decision.action_id,
            "user_id": decision.user_id,
            "epoch": decision.epoch,
            "time": decision.time,
            "action": decision.action,
            "record": records[key],
        }
        for key, decision in first.items()
    ]
    new: dict[tuple[str, int], RetentionDecision] = {}
    if rows:
        statement = insert(connection, RETENTION_DECISIONS).on_conflict_do_nothing()
        written = set(connection.execute(statement.returning(RETENTION_DECISIONS.c.action_id), rows).scalars())
        new = {key: decision for key, decision in first.items() if decision.action_id in written}
        _settle(connection, list(new.values()), holder)
        audited.extend(_entered(decision, records[key]) for key, decision in new.items())
    # As it would be read back, down to the order of its keys: the first answer is that of every later one.
    stored = {key: RetentionDecision.from_json(records[key]) for key in new}
    stored |= decisions_of(connection, [(d.user_id, d.epoch) for d in decisions if (d.user_id, d.epoch) not in new])
    return [stored.get((d.user_id, d.epoch)) or forgone(d) for d in decisions]


def override(
    connection: Connection, action_ids: Sequence[str], *, by: Override, audited: list[AuditEntry]
) -> list[RetentionDecision]:
    """Append an override to each decision that is not overridden to that action yet, and return what is stored now, in order.

    The drawn action stays in the record and counts for cooldowns: it may have been delivered before. A decision that is gone with its user is left
    out.
    """
    of = RETENTION_DECISIONS.c
    stored: dict[str, RetentionDecision] = {}
    changed = []
    for part in chunks(sorted(set(action_ids))):
        query = select(of.action_id, of.record).where(of.action_id.in_(part)).order_by(of.action_id)
        for action_id, record in connection.execute(query.with_for_update(key_share=True)):
            decision = RetentionDecision.from_json(record)
            if decision.in_force != by.action:
                decision = replace(decision, overrides=(*decision.overrides, by))
                changed.append({"of_id": action_id, "now": _with_override(record, by)})
                content = {"action_id": action_id, "action": by.action, "rule": by.rule}
                audited.append(AuditEntry(OVERRIDE, by.time, content, user_id=decision.user_id))
            stored[action_id] = decision
    if changed:
        change = update(RETENTION_DECISIONS).where(of.action_id == bindparam("of_id"))
        connection.execute(change.values(record=bindparam("now")), changed)
    return [stored[action_id] for action_id in action_ids if action_id in stored]


def decisions_of(connection: Connection, keys: Sequence[tuple[str, int]]) -> dict[tuple[str, int], RetentionDecision]:
    """The stored decisions among these (user, epoch)."""
    found = {}
    of = RETENTION_DECISIONS.c
    for part in chunks(dict.fromkeys(keys)):
        query = select(of.user_id, of.epoch, of.record).where(tuple_(of.user_id, of.epoch).in_(part))
        for row in connection.execute(query):
            found[row.user_id, row.epoch] = RetentionDecision.from_json(row.record)
    return found


def last_actions(connection: Connection, user_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """User → action → start of the epoch it was last decided in (µs); `none` is left out, and so are users without any."""
    last: dict[str, dict[str, int]] = defaultdict(dict)
    of = RETENTION_DECISIONS.c
    for part in chunks(dict.fromkeys(user_ids)):
        newest = select(of.user_id, of.action, func.max(of.epoch).label("epoch")).group_by(of.user_id, of.action)
        at = newest.where(of.user_id.in_(part), of.action != NO_ACTION).subquery().c
        query = select(of.record).where(of.user_id == at.user_id, of.epoch == at.epoch)
        for record in connection.execute(query).scalars():
            made = RetentionDecision.from_json(record)
            last[made.user_id][made.action] = made.epoch_start
    return dict(last)


def without_gone(
    connection: Connection, slates: Sequence[ServedSlate], *, erased: Collection[str]
) -> list[ServedSlate]:
    """The slates, without the action_id of a decision that went with its user. `erased`: users from `erase.standing`; decisions go no other way."""
    asked = sorted({s.action_id for s in slates if s.user_id in erased and s.action_id is not None})
    of, there = RETENTION_DECISIONS.c, set[str]()
    for part in chunks(asked):
        there.update(connection.execute(select(of.action_id).where(of.action_id.in_(part))).scalars())
    gone = set(asked) - there
    return [replace(s, action_id=None) if s.action_id in gone else s for s in slates]


def log_slates(connection: Connection, slates: Sequence[ServedSlate]) -> None:
    """Insert each slate unless its decision_id is there already. The transaction holds Lock.APPEND (`erase.standing`)."""
    rows = [
        {
            "decision_id": s.decision_id,
            "user_id": s.user_id,
            "time": s.time,
            "action_id": s.action_id,
            "record": s.to_json(),
        }
        for s in sorted(slates, key=lambda s: s.decision_id)
    ]
    if rows:
        statement = insert(connection, SERVED_SLATES)
        connection.execute(statement.on_conflict_do_nothing(index_elements=["decision_id"]), rows)


def slates_of(connection: Connection, decision_ids: Sequence[str]) -> dict[str, ServedSlate]:
    """The logged slates among these decision ids."""
    found = {}
    of = SERVED_SLATES.c
    for part in chunks(dict.fromkeys(decision_ids)):
        for row in connection.execute(select(of.decision_id, of.record).where(of.decision_id.in_(part))):
            found[row.decision_id] = ServedSlate.from_json(row.record)
    return found


def forgone(decision: RetentionDecision) -> RetentionDecision:
    """As whoever waits for it is told of a decision that is not stored, or not any more, since its user was erased: there is nothing to deliver."""
    if decision.in_force == NO_ACTION:
        return decision
    return replace(decision, overrides=(*decision.overrides, Override(NO_ACTION, FORGONE, decision.time)))


def _entered(decision: RetentionDecision, record: str) -> AuditEntry:
    content = {
        "action_id": decision.action_id,
        "action": decision.action,
        "propensity": decision.propensity,
        "record": record_digest(record),
    }
    return AuditEntry(DECISION, decision.time, content, user_id=decision.user_id)


def _with_override(record: str, by: Override) -> str:
    """The record with one override more, and everything else as it was written."""
    raw = orjson.loads(record)
    raw["overrides"].append(by)
    return orjson.dumps(raw, option=orjson.OPT_SORT_KEYS).decode()


def _settle(connection: Connection, decisions: Sequence[RetentionDecision], holder: Holder) -> None:
    """Spend what each decision costs and give back what else was reserved for it."""
    costs = {decision.action_id: decision.cost for decision in decisions}
    held = ledger.holdings(connection, costs)
    for action_id, cost in costs.items():
        if cost > 0 and action_id not in held:
            raise StoreError(
                "a decision that costs something needs a reservation under its action_id",
                field="decision.cost",
                value=cost,
                fix="reserve before booking",
            )
    ledger.settle(connection, {action_id: costs[action_id] for action_id in sorted(held)}, holder=holder, held=held)
