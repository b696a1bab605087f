"""A user's rows made span by span are those made at once, to the last bit; through Ray, so are the files."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bucket import OFFERS, builder_of
from made_logs import (
    DAYS,
    HOUR_US,
    ITEMS,
    START,
    TYPES,
    VOCABULARY,
    Row,
    history_of,
    moments,
    numbered,
    recipe,
    statistics_of,
    table_of,
)

from clm_ray.config.recipe import Recipe
from clm_ray.data.bucket import BucketBuilder
from clm_ray.data.bucket_figures import WindowFigures
from clm_ray.data.bucket_files import SEQUENCES_ROW_GROUP, BucketFiles, PackedRows
from clm_ray.data.bucket_result import BucketResult
from clm_ray.data.buckets import part
from clm_ray.data.columns import rows_to_table
from clm_ray.data.evaluation_sample import HeldOutOccasion, drawn
from clm_ray.data.neighbours import neighbours_of, opinions_before, opinions_of, similar_items, slice_ends
from clm_ray.data.occasions import Targets
from clm_ray.data.spans import Cut, Span, SpanPart, SpanRows, SpanSums, cuts_of
from clm_ray.features.asked import Joined
from clm_ray.features.tokens import USER_MEAN_EVENTS, deviations_until, token_values
from clm_ray.schema import DAY_US, IMPRESSIONS, NEIGHBOURS, SEQUENCES

RETENTION = {"every_days": 3, "active_within_days": 14, "bin_ends": [1, 3, 7], "report_days": [3, 7]}
FEATURES = {"windows_days": [3, 14], "prior_strength": 4.0}
SHARES = {"valid_share": 0.2, "test_share": 0.2}
RECIPES: dict[str, dict[str, Any]] = {
    "time": {},
    "attribution": {"impressions": {"negatives": "explicit", "attribution_hours": 30}},
    "row share": {"split": {"protocol": "row_share", **SHARES, "embargo_days": 2}},
    "per user": {"split": {"protocol": "per_user", **SHARES}},
    "per user, attribution": {
        "split": {"protocol": "per_user", **SHARES, "embargo_days": 1},
        "impressions": {"negatives": "explicit", "attribution_hours": 30},
    },
    "popularity": {"impressions": {"negatives": "popularity", "per_occasion": 2, "test_occasions": 3}},
    "popularity, per user": {
        "split": {"protocol": "per_user", **SHARES},
        "impressions": {"negatives": "popularity", "per_occasion": 1},
    },
    "availability": {"impressions": {"negatives": "availability", "per_occasion": 1, "attribution_hours": 30}},
    "refit": {"split": {"protocol": "time", "train_end": "2022-01-23", "valid_end": "2022-01-28", "refit": True}},
}
AT_ONCE = 1 << 60
NEAR = {"slices": 2, "min_users": 1, "shrinkage": 1.0}
TYPES_WITH_SLATES = [name for name in TYPES if name != "login"]
SLATES = [None, None, *(slot.removeprefix("decision:") for slot in OFFERS if slot.startswith("decision:"))]
ROWS = st.builds(
    Row,
    st.sampled_from(["u1", "u1", "u1", "u2"]),
    # Few moments: many events share one, and with it the edge of a span.
    st.one_of(moments(0, 12), moments(0, 24 * DAYS), moments(24 * 14, 24 * 14 + 6)),
    st.sampled_from(TYPES_WITH_SLATES),
    st.sampled_from(range(len(ITEMS))),
    st.one_of(st.none(), st.sampled_from([0.7, 3.3, 4.0, 5.0])),
    st.sampled_from(["front", "back", None]),
    st.sampled_from(SLATES),
    st.just(0),
)
LOGS = st.lists(ROWS, min_size=8, max_size=60).map(numbered)


def made_recipe(name: str, *, body: int = 2, max_context: int = 3) -> Recipe:
    sections: dict[str, Any] = {
        "retention": RETENTION,
        # The least that goes: features that reach over several spans are the harder case, and the rarer one.
        "features": FEATURES | {"max_history": max_context + 1},
        "neighbours": NEAR,
        "sequences": {"body": body, "max_context": max_context, "buckets": 2},
    }
    return recipe(**sections | RECIPES[name])


def builder(log: Sequence[Row], made: Recipe) -> BucketBuilder:
    last = max(row.time for row in log)
    found = builder_of(log, made, log_end=last + 1)
    opinions = opinions_of(table_of(log), found.source)
    parts = [
        similar_items(opinions_before(end, [opinions]), relation=relation, end=end, config=made.neighbours)
        for relation in (0, 1)
        for end in slice_ends(found.source.statistics, made.neighbours, log_end=last)
    ]
    neighbours = neighbours_of(pa.concat_tables([NEIGHBOURS.empty_table(), *parts]))
    return replace(found, source=replace(found.source, neighbours=neighbours))


def content(result: BucketResult) -> dict[str, Any]:
    """Everything that a result holds, to the last bit."""
    tables = {"windows": SEQUENCES, "impressions": IMPRESSIONS}
    found: dict[str, Any] = {
        name: rows_to_table(getattr(result, name), schema).to_pylist() for name, schema in tables.items()
    }
    for field in fields(BucketResult):
        if field.name not in tables:
            found[field.name] = bits(getattr(result, field.name))
    return {name: repr(value) for name, value in found.items()}


def bits(value: Any) -> Any:
    """Arrays by their bytes, everything else by what is in it."""
    if isinstance(value, np.ndarray):
        return value.dtype.name, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: bits(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [bits(of) for of in value]
    if hasattr(value, "__dataclass_fields__"):
        return [bits(getattr(value, field.name)) for field in fields(value)]
    return value


@pytest.mark.parametrize("name", RECIPES)
@settings(max_examples=10)
@given(LOGS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 9))
def test_span_by_span_gives_what_all_at_once_gives(
    name: str, log: list[Row], body: int, max_context: int, events: int
) -> None:
    log = [*log, *BASE]
    one = builder(log, made_recipe(name, body=body, max_context=max_context))
    table = table_of(log)
    whole = content(replace(one, span_events=AT_ONCE).build(table))
    assert content(replace(one, span_events=events).build(table)) == whole


BASE = [Row("u3", START + day * DAY_US, "purchase", 1 + day % 4, 1.0, number=900 + day) for day in range(0, 25, 2)]
"""Enough to be split by every protocol."""


def long_log(events: int) -> list[Row]:
    """A user with many events of every kind, some of them within one moment, and two others."""
    random = np.random.default_rng(3)
    hours = np.sort(random.integers(0, DAYS * 24, events))
    hours[events // 3 : events // 2] = hours[events // 3]
    kinds = [*TYPES_WITH_SLATES[:3], "mail"]
    mine = [
        Row(
            "u1",
            START + int(hour) * HOUR_US + (n % 7 if n < events // 3 else 0),
            kinds[int(random.integers(len(kinds)))],
            int(random.integers(1, len(ITEMS))),
            round(float(random.uniform(0, 5)), 2),
            ("front", "back", None)[n % 3],
        )
        for n, hour in enumerate(hours)
    ]
    others = [Row("u2", START + day * DAY_US, "purchase", 1 + day % 5, 2.5, "front") for day in range(DAYS)]
    return numbered([*mine, *others, *BASE])


@pytest.mark.parametrize("name", RECIPES)
def test_long_histories_look_back_over_the_edge_of_a_span(name: str) -> None:
    """More events than a user's mean looks back on, and than features reach."""
    log = long_log(900)
    one = builder(log, made_recipe(name, body=8, max_context=10))
    table = table_of(log)
    parts: list[SpanPart] = []

    def run(spans: Iterator[Span]) -> Iterator[tuple[SpanPart, SpanRows]]:
        for span in spans:
            # As it travels to another worker.
            part, rows = by_span.span(pickle.loads(pickle.dumps(span)))
            parts.append(part)
            yield part, rows

    by_span = replace(one, span_events=120)
    found = content(by_span.build(table, run=run))
    assert len(parts) > 4
    assert found == content(replace(one, span_events=AT_ONCE).build(table))


def test_a_user_mean_is_summed_from_the_first_event_on() -> None:
    """Sums of floats hang on where they begin. Here one sees it: ratings of the first days were so high that little of the later ones is left in the sum."""
    random = np.random.default_rng(5)
    values = np.r_[np.full(20, 1e13), random.uniform(0, 5, 380)]
    log = numbered(
        Row("u1", START + n // 3 * HOUR_US, "rating", 1 + n % 6, float(value)) for n, value in enumerate(values)
    )
    history, first = history_of(log), 250
    known = {"statistics": statistics_of(log[20:]), "vocabulary": VOCABULARY, "prior": 4.0}
    begin = int(np.searchsorted(history.time_N, history.time_N[first])) - USER_MEAN_EVENTS - 1
    whole_NV = token_values(Joined.of([history]), **known)
    part = Joined.of([history.slice(begin, len(history))])
    [none, total] = deviations_until(history, [0, begin], **known)
    later_NV = token_values(part, deviations=total, **known)[first - begin :]
    assert none == 0
    np.testing.assert_array_equal(later_NV, whole_NV[first:])
    assert (token_values(part, **known)[first - begin :] != whole_NV[first:]).any()
    one = builder([*log[20:], *BASE], made_recipe("time", body=8, max_context=10))
    table = table_of(log)
    assert content(replace(one, span_events=50).build(table)) == content(replace(one, span_events=AT_ONCE).build(table))


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_sums_of_spans_are_those_of_the_whole(offset: float) -> None:
    """Of which the first has no offsets: zeros keep their places, unless there is nothing else."""
    random, count = np.random.default_rng(7), 400
    item_T, time_T = random.integers(1, 99, count).astype(np.int32), np.sort(random.integers(0, 10**6, count))
    label_T, weight_T = random.integers(0, 2, count).astype(np.float32), np.ones(count, np.float32)
    offset_T = np.where(np.arange(count) < 150, 0.0, offset * random.uniform(size=count)).astype(np.float32)
    rating_T = np.where(random.uniform(size=count) < 0.5, np.nan, label_T).astype(np.float32)
    split_T = (np.arange(count) >= 300).astype(np.int32)
    columns = (item_T, label_T, weight_T, offset_T, time_T, rating_T)

    def sums(start: int, stop: int, *, later: int) -> SpanSums:
        return SpanSums.of(Targets(*(c[start:stop] for c in columns)), split_T[start:stop], later=later)

    edges = [0, 150, 290, 310, count]
    parts = [sums(*edge, later=later) for edge, later in zip(pairwise(edges), (9, 4, 5, 7), strict=True)]
    whole = sums(0, count, later=4)
    assert bits(SpanSums.joined(parts)) == bits(whole)
    assert len(whole.offsets[0]) == (300 if offset else 0)


def test_a_question_at_the_edge_lies_in_the_span_before() -> None:
    """Ten events at a moment, and windows of two: no edge but behind the moment."""
    time_N = np.array([1, 2, 3, 3, 3, 3, 3, 3, 4, 5], np.int64)
    cuts = cuts_of(time_N, time_N, body=2, events=1)
    assert [cut.context for cut in cuts] == [0, 2, 8, 10]
    assert [cut.time for cut in cuts[1:-1]] == [3, 4]
    assert cuts_of(time_N, time_N[:0], body=2, events=1) == [Cut(0, cuts[0].time), Cut(0, cuts[-1].time)]
    assert len(cuts_of(time_N, time_N, body=2, events=11)) == 2


def test_a_span_holds_no_more_than_its_part_of_the_history() -> None:
    log = long_log(900)
    made = made_recipe("time", body=8, max_context=10)
    seen: list[Span] = []

    def run(spans: Iterator[Span]) -> Iterator[tuple[SpanPart, SpanRows]]:
        for span in spans:
            seen.append(span)
            yield one.span(span)

    one = replace(builder(log, made), span_events=100)
    one.build(table_of(log), run=run)
    # Three hundred events share a moment before the middle of the log, and those before and behind them reach over it.
    lengths = sorted(max(len(span.context), len(span.history), len(span.events.history)) for span in seen)
    assert len(lengths) > 5
    assert lengths[len(lengths) // 2] < 300


def test_the_sample_of_test_occasions_is_drawn_from_the_spans_as_from_the_whole() -> None:
    log = long_log(600)
    made = made_recipe("popularity", body=4)
    one = builder(log, made)
    whole = replace(one, span_events=AT_ONCE).build(table_of(log)).test_occasions
    assert 0 < len(whole) <= made.impressions.test_occasions + made.impressions.catalogue_occasions
    found: list[HeldOutOccasion] = replace(one, span_events=20).build(table_of(log)).test_occasions
    assert bits(drawn(found, made.impressions).all()) == bits(drawn(whole, made.impressions).all())


def folders(root: Path) -> Path:
    for name in ("sequences", "impressions", "interactions"):
        (root / name).mkdir(parents=True)
    return root


@pytest.mark.parametrize("events", [0, 40, 3000])
def test_files_do_not_depend_on_the_portions_of_rows(events: int, tmp_path: Path) -> None:
    """Nor do figures. One table of all windows, as if nobody had to save memory, makes the same file."""
    log = long_log(events) if events else BASE
    made = made_recipe("attribution", body=1, max_context=2)
    found = builder(log, made).build(table_of(log if events else []))
    whole = SpanRows(found.windows, found.impressions)
    assert (len(found.windows) > 2 * SEQUENCES_ROW_GROUP) == (events == 3000)
    written, figures = [], []
    for number, size in enumerate((AT_ONCE, 1, 7, SEQUENCES_ROW_GROUP)):
        root = folders(tmp_path / str(number))
        with BucketFiles(root, 0) as files:
            for start in range(0, max(len(found.windows), 1), size):
                cut = slice(start, start + size)
                rows_of = SpanRows(whole.windows[cut], whole.impressions if not start else [])
                if number % 2:
                    files.take(rows_of)
                else:
                    files.put(PackedRows.of(rows_of))
            files.write_interactions(found)
        written.append([(root / name / part(0)).read_bytes() for name in ("sequences", "impressions", "interactions")])
        figures.append(bits(files.figures.figures()))
    path = tmp_path / "plain.parquet"
    table = rows_to_table(found.windows, SEQUENCES)
    pq.write_table(table, path, compression="zstd", row_group_size=SEQUENCES_ROW_GROUP, use_dictionary=False)
    assert written[0][0] == path.read_bytes()
    assert all(other == written[0] for other in written)
    assert all(other == bits(WindowFigures.of(found.windows).figures()) for other in figures)
