"""The base of every recipe section: strict, frozen, unknown keys refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A recipe section. Unknown keys are errors; a value of another type is refused unless it says the same ("3" for 3)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
