"""The look of every picture: drawn off-screen (Agg), light and plain. Figures are objects; nothing is kept between them."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, GRID, SOFT = "#333333", "#dddddd", "#666666"
SERIES = ("#1f4e9c", "#d98a1f", "#4f8f5b", "#c0504d", "#7a5aa6", "#3f9aa8", "#8c6d46", "#999999")
"""Colours of things side by side, in order."""
_LONGEST_NAME = 32


def blank(*, width: float, height: float, dpi: int = 130) -> Any:
    """An empty figure, inches."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def head(axes: Any, title: str, subtitle: str) -> None:
    """Title and subtitle, flush left."""
    axes.set_title(f"{title}\n", loc="left", fontsize=14, fontweight="bold", color=INK)
    axes.text(0, 1.02, subtitle, transform=axes.transAxes, fontsize=10, color=SOFT)


def dress(axes: Any, *, x: str, y: str) -> None:
    """Axis titles, grid, and a legend where anything has a name."""
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="best")


def plain(name: str) -> str:
    """A name from outside as text of a picture: one line, not too long, no formula (`$`), nothing that hides it (a leading `_`)."""
    line = "".join(letter if letter.isprintable() else " " for letter in name)
    short = line if len(line) <= _LONGEST_NAME else line[: _LONGEST_NAME - 1] + "…"
    return " " * short.startswith("_") + short.replace("$", r"\$")
