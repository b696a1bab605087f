"""What the build writes about a moment does not depend on what came at or after it: two logs that part at t agree before it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bucket import Target, build, references_of, targets_of
from made_logs import DAYS, HOUR_US, START, TRAIN_END, VALID_END, Row, label_of, moments, recipe, rows

from clm_ray.data.bucket_result import BucketResult
from clm_ray.data.feature_sample import SampledUser
from clm_ray.schema import DAY_US, TRAIN

LOG_END = START + (DAYS + 8) * DAY_US
SLOTS = ("front", "back", None)
SOURCES: list[dict[str, Any]] = [
    {"negatives": "explicit", "attribution_hours": None},
    {"negatives": "explicit", "attribution_hours": 30},
    {"negatives": "availability", "per_occasion": 2},
    {"negatives": "popularity", "per_occasion": 2},
]


def forks(t: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, list[Row], list[Row]]]:
    """(t, a log, another log): equal before t. With slates served before t whose answers come at any time.

    Both ask about u1 buying item 1 at t itself: whoever looks at "up to t" instead of "before t" sees what differs.
    """

    @st.composite
    def draw_fork(draw: st.DrawFn) -> tuple[int, list[Row], list[Row]]:
        moment = draw(t)
        past = [
            *draw(rows(moments(0, 24 * DAYS), slots=SLOTS, max_size=16)),
            *(
                Row("u1", START + draw(st.integers(0, 600)) * HOUR_US, "impression", 0, decision=d)
                for d in ("d1", "d2")
            ),
        ]
        past = [row for row in past if row.time < moment]
        near = st.one_of(st.just(moment), st.integers(0, 30 * 24).map(lambda hour: moment + hour * HOUR_US))
        answers = st.builds(
            lambda time, item, decision: Row("u1", time, "purchase", item, 1.0, decision=decision),
            near.map(lambda time: time + HOUR_US),
            st.integers(1, 6),
            st.sampled_from(["d1", "d2"]),
        )
        futures = [[*draw(rows(near, slots=SLOTS, max_size=6)), *draw(st.lists(answers, max_size=2))] for _ in range(2)]
        asked = Row("u1", moment, "purchase", 1, 1.0, slot="front", number=900)
        logs = []
        for future in futures:
            # What is asked about answers no impression of that very moment.
            others = [
                r for r in future if r[:2] != asked[:2] or (label_of(r) != 1.0 and (r.type, r.item) != ("skip", 1))
            ]
            logs.append([asked, *(row._replace(number=n) for n, row in enumerate([*others, *past], 1))])
        return moment, *logs

    return draw_fork()


def known_at(result: BucketResult, t: int, *, slates: set[int], hours: int = 0) -> tuple[list[Target], list[Any]]:
    """Targets and references up to t without what is known only later: answers to slates and (within `hours`) to impressions, labels of
    references."""
    found = [target for target in targets_of(result) if target.time < t or (target.user, target.time) == ("u1", t)]
    waiting = t - hours * HOUR_US
    targets = sorted(
        target._replace(label=0.0, weight=0.0) if target.time in slates or waiting < target.time < t else target
        for target in found
    )
    return targets, [(r.user, r.time, r.split, r.dense, r.context) for r in references_of(result) if r.time <= t]


@pytest.mark.parametrize("impressions", SOURCES, ids=lambda config: "-".join(map(str, config.values())))
@settings(max_examples=20)
@given(data=st.data())
def test_targets_and_references_do_not_see_the_future(impressions: dict[str, Any], data: st.DataObject) -> None:
    midnights = st.integers(1, 20).map(lambda day: START + day * DAY_US)
    t, *logs = data.draw(forks(st.one_of(moments(24, 20 * 24), midnights)))
    made = recipe(impressions=impressions, retention={"every_days": 1, "bin_ends": [1, 3], "report_days": [3]})
    slates = {row.time for row in logs[0] if row.type == "impression"}
    hours = impressions.get("attribution_hours") or 0
    one, two = (known_at(build(log, made, log_end=LOG_END), t, slates=slates, hours=hours) for log in logs)
    assert one[1] == two[1]
    if impressions["negatives"] == "explicit":
        # Other rows of the log at t are targets too, and differ; the one that was asked about is in both.
        one, two = (
            ([x for x in found[0] if x.time < t or (x.item, x.label) == (1, 1)], found[1]) for found in (one, two)
        )
    assert one[0] == two[0]


@settings(max_examples=20)
@given(forks(st.just(TRAIN_END)))
def test_training_does_not_see_the_later_splits(fork: tuple[int, list[Row], list[Row]]) -> None:
    """Labels of references, the rows that features are selected by, thresholds and X: all of the training period alone."""
    _, *logs = fork
    seen = []
    for log in logs:
        result = build(log, recipe(), log_end=LOG_END)
        seen.append(
            {
                "targets": [target for target in targets_of(result) if target.split == TRAIN],
                "references": [repr(r) for r in references_of(result) if r.split == TRAIN],
                "click_sample": _filled(result.sample.click),
                "retention_sample": {days: _filled(users) for days, users in result.sample.retention.items()},
                "gaps": list(zip(result.gaps.key_N.tolist(), result.gaps.count_N.tolist(), strict=True)),
                "interactions": {
                    (user, int(item)): (float(weight), int(events))
                    for user, *columns in result.interactions
                    for item, weight, events in zip(*columns, strict=True)
                },
            }
        )
    assert seen[0] == seen[1]


def _filled(sample: list[SampledUser]) -> list[Any]:
    return sorted((user.dense_NF.tolist(), user.label_N.tolist()) for user in sample)


@settings(max_examples=15)
@given(forks(st.just(VALID_END)))
def test_validation_does_not_see_the_test_split(fork: tuple[int, list[Row], list[Row]]) -> None:
    _, *logs = fork
    one, two = (build(log, recipe(), log_end=LOG_END) for log in logs)
    assert targets_of(one) == targets_of(two), "those of the test split are in no window"
    one, two = (references_of(result) for result in (one, two))
    assert [repr(r) for r in one if r.time < VALID_END] == [repr(r) for r in two if r.time < VALID_END]
