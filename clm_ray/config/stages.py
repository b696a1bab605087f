"""The names of the life-cycle stages, and of doing nothing."""

from __future__ import annotations

from typing import Literal

Stage = Literal["prospect", "new", "established", "at_risk", "churned", "reactivated"]
STAGES: tuple[Stage, ...] = ("prospect", "new", "established", "at_risk", "churned", "reactivated")
NO_ACTION = "none"
