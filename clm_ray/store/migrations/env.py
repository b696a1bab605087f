"""Executed by Alembic, which wants a file of this name: runs the migrations on the connection that `clm_ray.store.migrate` hands over."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"], version_table=context.config.attributes["version_table"]
)
context.run_migrations()
