"""What is known of single users, and who may see it."""

from __future__ import annotations

from pydantic import Field

from clm_ray.config.section import Section


class PrivacyConfig(Section):
    """Pseudonyms, and the smallest group that a report shows. Of a table's columns, only those that the recipe names are ever kept."""

    pseudonyms: bool = False
    """Replace every user id, when it is first read, by a keyed hash; the endpoint does the same. Rejected rows then keep file, row and
    reason, not what stood in them."""
    key_variable: str = "CLM_PSEUDONYM_KEY"
    """Environment variable with the key, where jobs run and in the replicas of the gateway."""
    min_group: int = Field(default=1, ge=1)
    """Figures of a group with fewer users than this are left out of reports (k-anonymity)."""
