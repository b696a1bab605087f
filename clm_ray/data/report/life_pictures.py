"""The life-cycle pictures of the data report."""

from __future__ import annotations

import datetime as dt

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

from clm_ray.data.report.life_figures import RfmTable, StageDays
from clm_ray.data.report.pictures import across, empty, finished
from clm_ray.drawing import SERIES


def stages(found: StageDays) -> bytes:
    """Users in each stage by day, one on the other."""
    figure, axes = empty()
    names = [stage for stage, row in found.users.items() if any(row)]
    rows = np.array([[n or 0 for n in found.users[stage]] for stage in names])
    first = dt.date.fromisoformat(found.first)
    days = [first + dt.timedelta(days=n) for n in range(rows.shape[1])]
    axes.stackplot(days, rows, labels=[name.replace("_", " ") for name in names], colors=SERIES, alpha=0.85)
    locator = AutoDateLocator(maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return finished(figure, axes, x="day (UTC)", y="users")


def rfm(found: RfmTable) -> bytes:
    """Users by segment."""
    users = {one.name: float(one.users or 0) for one in found.segments}
    return across(users, ["hidden" if one.users is None else f"{one.users:,}" for one in found.segments], "users")
