"""What is set while the policy runs, by a person or by the policy itself: kill switch, guardrails that stopped something, the price of
budget, learned uplifts, the baseline of approvals. One row per key, a JSON value each; read at every decision, so that a change counts from
the next request on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, delete, select, update

from clm_ray.store.engine import insert
from clm_ray.store.tables import POLICY_CONTROLS


@dataclass(frozen=True)
class Control:
    """One setting: its value, and who changed it when (µs), and why."""

    key: str
    value: Any
    changed_at: int
    changed_by: str
    reason: str


def controls(connection: Connection) -> dict[str, Control]:
    """All settings by key."""
    return {
        row.key: Control(row.key, orjson.loads(row.value), row.changed_at, row.changed_by, row.reason)
        for row in connection.execute(select(POLICY_CONTROLS))
    }


def put_control(connection: Connection, control: Control, *, once: bool = False) -> bool:
    """Set, or (`once`) set unless it is there. Returns whether it was written."""
    row = {
        "key": control.key,
        "value": _text(control.value),
        "changed_at": control.changed_at,
        "changed_by": control.changed_by,
        "reason": control.reason,
    }
    statement = insert(connection, POLICY_CONTROLS).values(row)
    if once:
        return connection.execute(statement.on_conflict_do_nothing(index_elements=["key"])).rowcount > 0
    changed = {name: value for name, value in row.items() if name != "key"}
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_=changed))
    return True


def swap_control(connection: Connection, before: Control, after: Control) -> bool:
    """Set to `after` where the setting still is `before`; False where somebody else was there first."""
    of = POLICY_CONTROLS.c
    same = (of.key == before.key) & (of.value == _text(before.value)) & (of.changed_at == before.changed_at)
    new: Mapping[str, Any] = {
        "value": _text(after.value),
        "changed_at": after.changed_at,
        "changed_by": after.changed_by,
        "reason": after.reason,
    }
    return connection.execute(update(POLICY_CONTROLS).where(same).values(new)).rowcount > 0


def drop_control(connection: Connection, key: str) -> bool:
    """Forget a setting. Returns whether there was one."""
    return connection.execute(delete(POLICY_CONTROLS).where(POLICY_CONTROLS.c.key == key)).rowcount > 0


def _text(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
