"""What is set once per store, as text by key."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from clm_ray.store.engine import insert
from clm_ray.store.tables import SETTINGS


def get_setting(connection: Connection, key: str) -> str | None:
    """A setting's text, None where it was never set."""
    return connection.execute(select(SETTINGS.c.value).where(SETTINGS.c.key == key)).scalar_one_or_none()


def set_once(connection: Connection, key: str, value: str) -> str:
    """Set a setting unless there is one; the text that holds."""
    connection.execute(insert(connection, SETTINGS).values(key=key, value=value).on_conflict_do_nothing())
    return get_setting(connection, key) or ""


def put_setting(connection: Connection, key: str, value: str) -> None:
    """Set or replace a setting."""
    statement = insert(connection, SETTINGS).values(key=key, value=value)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["key"], set_={"value": statement.excluded.value})
    )


def drop_setting(connection: Connection, key: str) -> None:
    """Forget a setting."""
    connection.execute(delete(SETTINGS).where(SETTINGS.c.key == key))
