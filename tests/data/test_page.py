"""report.html: one file, everything escaped, a picture or a reason for each part."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from made_figures import counts_of, figures_of
from made_logs import DAYS, START, USERS, Row, numbered, recipe

from clm_ray.config.recipe import Recipe
from clm_ray.data.log import Counts
from clm_ray.data.report import readings
from clm_ray.data.report.figures import Figures
from clm_ray.data.report.page import render, sections
from clm_ray.data.report.short import BaseRate, DataReport
from clm_ray.schema import DAY_US

HOSTILE = "_<script src='http://evil'>alert(1)</script>$\\frac$ & \"x\"\n漢"
LOG = numbered(
    Row(user, START + day * DAY_US + n * 3_600_000_000, kind, 1 + (day + n) % 6, 2.0)
    for n, user in enumerate(USERS)
    for day in range(0, DAYS - n * 10, n + 1)
    for kind in ("purchase", "login")
)
RATES = {"train": BaseRate(100, 25, 0.25), "valid": BaseRate(50, 10, 0.2), "test": BaseRate(400, 10, 0.025)}


class Reader(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def figures(made: Recipe | None = None, **more: int) -> Figures:
    made = made or recipe()
    return figures_of(counts_of(LOG, made, users=USERS), LOG, made, **more)


def report(name: str = "made", reason: str = "unparsable time") -> DataReport:
    counts = Counts(
        1005, 1000, 2, {reason: 3}, {name: 900}, 10, 20, 50, START, START + DAYS * DAY_US, tables={reason: 4}
    )
    return DataReport(name, f"About {name}.", counts, 30, 10, 0.25, RATES, None)


@pytest.fixture(scope="module")
def page() -> str:
    """The page of the made log. Its pictures take a second to draw."""
    return render(report(), figures())


def test_the_page_needs_nothing_else(page: str) -> None:
    reader = read(page)
    assert "Data report: made" in re.findall("<title>(.*)</title>", page)
    assert not re.search("https?://", page)
    for _, attributes in reader.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:image/png;base64,", "#"))
    assert {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object"} == set()
    viewport = [a["content"] for tag, a in reader.tags if tag == "meta" and a.get("name") == "viewport"]
    assert viewport == ["width=device-width, initial-scale=1"]
    anchors = {a["href"] for tag, a in reader.tags if tag == "a"}
    assert anchors == {f"#{a['id']}" for tag, a in reader.tags if tag == "section"}


def test_every_part_has_a_picture_with_a_text_and_says_something(page: str) -> None:
    reader = read(page)
    pictures = [a for tag, a in reader.tags if tag == "img"]
    assert len(pictures) == 11
    for picture in pictures:
        assert len(picture["alt"] or "") > 20
        assert base64.b64decode((picture["src"] or "").removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    for part in sections(report(), figures()):
        assert part.says
        assert all(text in reader.text for text in part.says)
    for told in (
        "1,005",
        "rejected: unparsable time",
        "It ends in mid-week",
        "population stability",
        "Kaplan-Meier",
        "champions",
    ):
        assert told.lower() in reader.text.lower()


@pytest.mark.filterwarnings("error")
def test_names_from_outside_are_text_and_nothing_else() -> None:
    found = figures()
    rows = dict(found.daily.events)
    rows[HOSTILE] = rows.pop("login")
    rows[HOSTILE + "2"] = tuple(0 for _ in rows[HOSTILE])
    found = replace(found, daily=replace(found.daily, events=rows), absent={"survival": HOSTILE}, survival=None)
    page = render(report(HOSTILE, reason=HOSTILE), found)
    reader = read(page)
    assert {tag for tag, _ in reader.tags} & {"script", "x"} == set()
    assert "<script" not in page
    assert page.count("&lt;script src=&#x27;http://evil&#x27;&gt;") >= 5  # title, heading, description, tables, reason
    assert HOSTILE in reader.text


def test_the_page_is_the_same_each_time(page: str) -> None:
    assert render(report(), figures()) == page


def test_what_does_not_apply_is_a_line_instead_of_a_picture() -> None:
    split = {"protocol": "time", "train_end": "2022-01-23", "valid_end": "2022-01-28", "refit": True}
    made = recipe(retention={"enabled": False, "reason_off": "bought once <in a life>"}, split=split)
    one = replace(report(), base_rates={"train": RATES["train"], "test": BaseRate(0, 0, None)})
    clean = replace(one, counts=replace(one.counts, rejected={}, tables={}, duplicates=0))
    found = {part.name: part for part in sections(clean, figures(made))}
    assert {name for name, part in found.items() if part.picture is None} == {
        "survival",
        "cohorts",
        "rates",
        "quarantine",
        "drift",
    }
    text = read(render(clean, figures(made))).text
    for told in ("bought once <in a life>", "only train has targets", "every row could be used", "split.refit"):
        assert told in text


def test_it_says_that_small_groups_are_hidden(page: str) -> None:
    assert "Groups of fewer than 3 users are hidden." in render(report(), figures(min_users=3))
    assert "are hidden" not in page


def test_no_user_is_on_the_page(page: str) -> None:
    for user in USERS:
        assert not re.search(rf"\b{user}\b", page + figures().to_json())


def test_readings_follow_the_figures() -> None:
    found = figures()
    week = replace(found.daily, first="2024-01-01", events={"a": (1, 0, 1, 2, 1, 1, 1), "b": (0,) * 7})
    said = " ".join(readings.daily(week))
    assert "Monday 2024-01-01 to Sunday 2024-01-07" in said
    assert "mid-week" not in said
    assert "1 of them have no event" in said
    assert "there is no event: b" in said
    assert found.popularity is not None
    tail = replace(found.popularity, items=10, once=9, unused=5)
    assert "9 items (90%) have one event. The model knows this tail" in " ".join(readings.popularity(tail))
    assert "5 items of the catalogue" in " ".join(readings.popularity(tail))
    close = {"train": RATES["train"], "valid": BaseRate(50, 12, 0.24)}
    assert "They are close" in " ".join(readings.base_rates(close))
    assert "10.0 times the smallest" in " ".join(readings.base_rates(RATES))
