"""report.html: the data report as one page that needs nothing else, neither network nor scripts.

Pictures are PNG within the page, each with a text for those who do not see it. Everything that comes from outside (names of the recipe, event
types, reasons, features) is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

from clm_ray.data.report import life_pictures, life_readings, pictures, readings
from clm_ray.data.report.figures import Figures
from clm_ray.data.report.short import DataReport

PAGE = "report.html"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto; padding: 1rem; max-width: 46rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-top: 1px solid #ddd; padding-top: 1rem; }
img { width: 100%; height: auto; } p.absent { color: #666; font-style: italic; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; }
td, th { padding: .25rem .5rem; border-bottom: 1px solid #eee; vertical-align: top; overflow-wrap: anywhere; }
td + td { font-variant-numeric: tabular-nums; } nav a { margin-right: .8rem; white-space: nowrap; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
F = TypeVar("F")


@dataclass(frozen=True)
class Section:
    """One picture with what it says; without a picture, one line says why. alt: what the picture shows; grid: a table below it, its first row the head."""

    name: str
    title: str
    alt: str
    picture: bytes | None
    says: Sequence[str]
    grid: Sequence[Sequence[str]] = ()


def sections(report: DataReport, figures: Figures) -> Iterator[Section]:
    """The pictures of the report, in the order of the page."""

    def drawn(
        name: str,
        title: str,
        alt: str,
        found: F | None,
        draw: Callable[[F], bytes],
        say: Callable[[F], list[str]],
        grid: Callable[[F], Sequence[Sequence[str]]] = lambda _: (),
    ) -> Section:
        if found is None:
            return Section(name, title, alt, None, [f"Not shown: {figures.absent[name]}."])
        return Section(name, title, alt, draw(found), say(found), grid(found))

    yield drawn(
        "daily",
        "Events per day",
        "Line chart of the events per day, one line per event type",
        figures.daily,
        pictures.daily,
        readings.daily,
    )
    yield drawn(
        "popularity",
        "Popularity of the items",
        "Events of an item against its rank, both axes logarithmic, with the fitted slope",
        figures.popularity,
        pictures.popularity,
        readings.popularity,
    )
    yield drawn(
        "gaps",
        "Gaps between activities",
        "Histogram of the time between two activities of a user, on a logarithmic axis from a second to years",
        figures.gaps,
        pictures.gaps,
        readings.gaps,
    )
    yield drawn(
        "lengths",
        "Length of the sequences",
        "Two histograms: users by their number of events, windows by their number of context events",
        figures.lengths,
        pictures.lengths,
        readings.lengths,
    )
    yield drawn(
        "survival",
        "How long users stay",
        "Kaplan-Meier curve: share of users still active by days since their first activity",
        figures.survival,
        pictures.survival,
        readings.survival,
    )
    yield drawn(
        "cohorts",
        "Cohorts",
        "Heat map: share of each cohort of users active again in each later period",
        figures.cohorts,
        pictures.cohorts,
        readings.cohorts,
    )
    yield drawn(
        "stages",
        "Stages of the life cycle",
        "Stacked areas: users in each life-cycle stage on each day",
        figures.stages,
        life_pictures.stages,
        life_readings.stages,
        life_readings.moves,
    )
    yield drawn(
        "rfm",
        "Recency, frequency, money",
        "Bar chart of the users in each segment by recency, frequency and money",
        figures.rfm,
        life_pictures.rfm,
        life_readings.rfm,
        life_readings.segments,
    )
    yield _base_rates(report)
    yield _quarantine(report)
    yield _drift(figures)


def render(report: DataReport, figures: Figures) -> str:
    """The page."""
    title = escape(f"Data report: {report.recipe}")
    found = list(sections(report, figures))
    links = "".join(f'<a href="#{s.name}">{escape(s.title)}</a> ' for s in found)
    first, *others = [_table(name, rows) for name, rows in report.parts() if rows]
    hidden = f"<p>Groups of fewer than {figures.min_users:,} users are hidden.</p>\n" if figures.min_users > 1 else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{title}</h1>\n<p>{escape(report.description.strip())}</p>\n{hidden}{first}<nav>{links}</nav>\n"
        f"{''.join(_section(s) for s in found)}{''.join(others)}</body>\n</html>\n"
    )


def _base_rates(report: DataReport) -> Section:
    rates = {split: rate.rate for split, rate in report.base_rates.items() if rate.rate is not None}
    title, alt = "Base rates", "Bar chart of the share of positive targets in each split"
    if len(rates) < 2:
        said = f"Not shown: only {' '.join(rates) or 'no split'} has targets, so there is nothing to compare."
        return Section("rates", title, alt, None, [said])
    return Section("rates", title, alt, pictures.base_rates(rates), readings.base_rates(report.base_rates))


def _quarantine(report: DataReport) -> Section:
    counts = report.counts
    reasons = [
        *counts.rejected.items(),
        *((f"tables: {reason}", n) for reason, n in counts.tables.items()),
        *([("duplicate", counts.duplicates)] if counts.duplicates else []),
    ]
    title, alt = "Rows set aside", "Bar chart of the rows set aside, by reason"
    if not reasons:
        return Section("quarantine", title, alt, None, ["Not shown: every row could be used."])
    reasons.sort(key=lambda item: (-item[1], item[0]))
    return Section("quarantine", title, alt, pictures.quarantine(reasons), readings.quarantine(counts))


def _drift(figures: Figures) -> Section:
    title, alt = "Drift between the splits", "Bar chart of the population stability index of the most drifted features"
    if figures.drift is None:
        return Section("drift", title, alt, None, [f"Not shown: {figures.absent['drift']}."])
    picture = pictures.drift(figures.drift) if figures.drift.features else None
    return Section("drift", title, alt, picture, readings.drift(figures.drift))


def _section(section: Section) -> str:
    picture = ""
    if section.picture is not None:
        data = base64.b64encode(section.picture).decode("ascii")
        picture = f'<img alt="{escape(section.alt)}" src="data:image/png;base64,{data}">\n'
    mark = "" if section.picture is not None else ' class="absent"'
    says = "".join(f"<p{mark}>{escape(text)}</p>\n" for text in section.says)
    return f'<section id="{section.name}">\n<h2>{escape(section.title)}</h2>\n{picture}{says}{_grid(section.grid)}</section>\n'


def _grid(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head, *body = [[escape(cell) for cell in row] for row in rows]
    lines = ["".join(f"<th>{cell}</th>" for cell in head), *("".join(f"<td>{c}</td>" for c in row) for row in body)]
    return '<div class="wide"><table>\n' + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table></div>\n"


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>\n" for name, value in rows)
    return f'<h2>{escape(title)}</h2>\n<div class="wide"><table>\n{body}</table></div>\n'
