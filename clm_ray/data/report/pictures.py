"""The pictures of the data report as PNG bytes, made to be read on a phone: narrow, with large type."""

from __future__ import annotations

import datetime as dt
import io
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from clm_ray.data.report.drift_figures import Drift
from clm_ray.data.report.figures import Cohorts, Daily, Histogram, Lengths, Popularity, Survival, total
from clm_ray.drawing import INK, SERIES, blank, dress, plain
from clm_ray.metrics.drift import LARGE, SMALL

_WIDTH, _HEIGHT, _DPI = 5.6, 3.6, 150
_MOST_SERIES = 7
_MOST_BARS = 15
_TICKS_S = {
    1: "1 s",
    60: "1 min",
    3600: "1 h",
    86_400: "1 d",
    7 * 86_400: "1 w",
    30 * 86_400: "30 d",
    365 * 86_400: "1 y",
}
_UNEVEN = 20
"""Event types more than this far apart in number are drawn on a logarithmic axis."""


def daily(found: Daily) -> bytes:
    """Events per day, one line per event type; the rarest types together."""
    figure, axes = empty()
    order = sorted(
        (name for name, row in found.events.items() if total(row)), key=lambda name: -total(found.events[name])
    )
    rows = [
        (plain(name), np.array([np.nan if n is None else n for n in found.events[name]]))
        for name in order[:_MOST_SERIES]
    ]
    if rest := order[_MOST_SERIES:]:
        rows.append(
            (f"{len(rest)} other types", np.array([[n or 0 for n in found.events[name]] for name in rest]).sum(0))
        )
    first = dt.date.fromisoformat(found.first)
    days = [first + dt.timedelta(days=n) for n in range(len(next(iter(found.events.values()))))]
    for (name, row), colour in zip(rows, SERIES, strict=False):
        axes.plot(days, row, color=colour, linewidth=1.2, marker="." if len(days) < 15 else "", label=name)
    totals = [total(found.events[name]) for name in order]
    if totals and max(totals) > _UNEVEN * min(totals):
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    locator = AutoDateLocator(maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_ylim(bottom=0)
    return finished(figure, axes, x="day (UTC)", y="events per day")


def popularity(found: Popularity) -> bytes:
    """Events of an item against its rank, both logarithmic, with the fitted slope."""
    figure, axes = empty()
    rank, count = np.array(found.rank), np.array(found.count)
    axes.plot(rank, count, color=SERIES[0], marker=".", linestyle="", label="items")
    if found.slope is not None and found.fitted_to is not None:
        fit = rank <= found.fitted_to
        middle = np.exp(np.log(count[fit]).mean() - found.slope * np.log(rank[fit]).mean())
        label = f"slope {found.slope:.2f}, ranks 1 to {found.fitted_to:,}"
        axes.plot(rank[fit], middle * rank[fit] ** found.slope, color=SERIES[1], linewidth=1.5, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_round_number))
        axis.set_minor_formatter(FuncFormatter(_round_number))
    return finished(figure, axes, x="rank of the item", y="events")


def gaps(found: Histogram) -> bytes:
    """Gaps between activities of a second and more, on a logarithmic axis of time: shorter ones (one basket) would dwarf all others."""
    figure, axes = empty()
    edges, heights = np.array(found.edges[1:]), np.array([n or 0 for n in found.counts[1:]])
    axes.bar(edges[:-1], heights, width=np.diff(edges), align="edge", color=SERIES[0], edgecolor="white", linewidth=0.5)
    axes.set_xscale("log")
    some = np.flatnonzero(heights)
    low, high = (edges[some[0]], edges[some[-1] + 1]) if len(some) else (edges[0], edges[-1])
    axes.set_xlim(low / 1.2, high * 1.2)
    ticks = {second: name for second, name in _TICKS_S.items() if low / 1.2 <= second <= high * 1.2}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    return finished(figure, axes, x="time between two activities of a user", y="gaps")


def lengths(found: Lengths) -> bytes:
    """Users by their number of events; windows by the context events they carry."""
    figure = blank(width=_WIDTH, height=1.5 * _HEIGHT, dpi=_DPI)
    for axes, (one, x, y) in zip(
        figure.subplots(2, 1),
        ((found.users, "events of a user", "users"), (found.windows, "context events of a window", "windows")),
        strict=True,
    ):
        edges = [int(edge) for edge in one.edges]
        names = [f"{a:,}" if b - a <= 1 else f"{a:,}–{b - 1:,}" for a, b in pairwise(edges)]
        start = 0 if one.counts[0] else 1
        axes.bar(range(len(names) - start), [n or 0 for n in one.counts[start:]], color=SERIES[0])
        axes.set_xticks(range(len(names) - start), names[start:], rotation=45, ha="right")
        dress(axes, x=x, y=y)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return _png(figure)


def survival(found: Survival) -> bytes:
    """The Kaplan-Meier curve with its interval."""
    figure, axes = empty()
    day = np.r_[0, found.day]
    share, low, high = (
        np.r_[1.0, [np.nan if v is None else v for v in row]] for row in (found.share, found.low, found.high)
    )
    axes.fill_between(day, low, high, step="post", color=SERIES[0], alpha=0.2, linewidth=0, label="95 % interval")
    axes.step(day, share, where="post", color=SERIES[0], linewidth=1.8, label="still a customer")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return finished(figure, axes, x="days since the first activity", y="share of users")


def cohorts(found: Cohorts) -> bytes:
    """A row per cohort, a column per period since; blank where the log does not show it."""
    size = len(found.begins)
    figure = blank(width=_WIDTH, height=float(np.clip(1.0 + 0.24 * size, 2.4, 7.5)), dpi=_DPI)
    axes = figure.subplots()
    share = np.array([[np.nan if v is None else v for v in row] for row in found.share])
    # The first column is 1 by definition: the colours are those of the others.
    top = max(0.01, float(np.nanmax(share[:, 1:]))) if np.isfinite(share[:, 1:]).any() else 1.0
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    if size <= 14:
        for c, k in zip(*np.nonzero(np.isfinite(share)), strict=True):
            dark = share[c, k] > 0.6 * top
            axes.text(
                k,
                c,
                f"{share[c, k]:.0%}".rstrip("%"),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else INK,
            )
    step = max(1, size // 14)
    names = [begin[:7] if found.period == "month" else begin for begin in found.begins]
    axes.set_yticks(range(0, size, step), names[::step], fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(f"{found.period}s since the first activity", color=INK)
    axes.tick_params(colors=INK)
    axes.spines[:].set_visible(False)
    return _png(figure)


def base_rates(rates: Mapping[str, float]) -> bytes:
    """Share of positive targets of each split."""
    figure, axes = empty(height=2.8)
    bars = axes.bar(list(rates), list(rates.values()), width=0.6, color=SERIES[0])
    axes.bar_label(bars, [f"{rate:.2%}" for rate in rates.values()], color=INK)
    axes.margins(y=0.15)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return finished(figure, axes, x="", y="positive targets")


def quarantine(reasons: Sequence[tuple[str, int]]) -> bytes:
    """Rows set aside by reason, the most frequent on top."""
    return across(
        {name: float(n) for name, n in reasons[:_MOST_BARS]}, [f"{n:,}" for _, n in reasons[:_MOST_BARS]], "rows"
    )


def drift(found: Drift) -> bytes:
    """Stability index of the most drifted features, with the two usual marks."""
    most = found.features[:_MOST_BARS]
    return across(
        {f"{f.feature} ({f.block})": f.index for f in most},
        [f"{f.index:.2f}" for f in most],
        "stability index (PSI)",
        marks=(SMALL, LARGE),
    )


def across(values: Mapping[str, float], labels: Sequence[str], x: str, *, marks: Sequence[float] = ()) -> bytes:
    """Horizontal bars, the first on top, each with its label."""
    figure = blank(width=_WIDTH, height=1.0 + 0.3 * len(values), dpi=_DPI)
    axes = figure.subplots()
    bars = axes.barh(range(len(values)), list(values.values()), color=SERIES[0])
    axes.bar_label(bars, labels, padding=3, fontsize=9, color=INK)
    axes.set_yticks(range(len(values)), [plain(name) for name in values])
    axes.invert_yaxis()
    for mark, colour in zip(marks, (SERIES[1], SERIES[3]), strict=False):
        axes.axvline(mark, color=colour, linewidth=1.2, linestyle="--")
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return finished(figure, axes, x=x, y="")


def _round_number(value: float, _: int) -> str:
    """The ticks of a logarithmic axis that begin with 1, 2 or 5."""
    return f"{value:,.10g}" if f"{value:e}"[0] in "125" else ""


def empty(*, height: float = _HEIGHT) -> tuple[Any, Any]:
    """A picture of the page's width with one pair of axes."""
    figure = blank(width=_WIDTH, height=height, dpi=_DPI)
    return figure, figure.subplots()


def finished(figure: Any, axes: Any, *, x: str, y: str) -> bytes:
    """The picture as PNG, its axes dressed."""
    dress(axes, x=x, y=y)
    return _png(figure)


def _png(figure: Any) -> bytes:
    target = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the tables have it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(target, format="png")
    return target.getvalue()
