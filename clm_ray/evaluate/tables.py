"""Tables of the report: Markdown that also reads well as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from clm_ray.metrics.bootstrap import Difference

NONE = "–"


def number(value: float) -> str:
    """Four decimals, small values four significant digits; a dash where the figure is not defined or not computed."""
    if math.isnan(value):
        return NONE
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.1 else f"{value:.4g}"


def interval(d: Difference) -> str:
    """A difference with its interval."""
    if math.isnan(d.estimate):
        return NONE
    digits = 4 if max(abs(d.low), abs(d.high)) >= 0.01 else 6
    return f"{d.estimate:+.{digits}f} [{d.low:+.{digits}f}, {d.high:+.{digits}f}]"


def table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table with padded cells; the first column to the left, the others to the right."""
    width = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]

    def join(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(cells) + " |"

    padded = [
        join([cell.ljust(width[c]) if c == 0 else cell.rjust(width[c]) for c, cell in enumerate(line)])
        for line in lines
    ]
    rule = join([("-" * width[c]) if c == 0 else "-" * (width[c] - 1) + ":" for c in range(len(width))])
    return "\n".join([padded[0], rule, *padded[1:]])
