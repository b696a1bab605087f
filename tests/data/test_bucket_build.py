"""The rows of one bucket against the log they were made of."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from made_bucket import OFFERS, build, builder_of, references_of, targets_of
from made_logs import (
    DAYS,
    HOUR_US,
    ITEMS,
    START,
    TRAIN_END,
    TYPES,
    VALID_END,
    VOCABULARY,
    Row,
    history_of,
    label_of,
    moments,
    numbered,
    ordered,
    recipe,
    rows,
    source_of,
    table_of,
)

from clm_ray.config.data import ImpressionsConfig
from clm_ray.data.bucket_result import BucketResult
from clm_ray.data.evaluation_sample import HeldOutOccasion, drawn
from clm_ray.data.feature_sample import SAMPLE_PER_USER, SAMPLE_ROWS, FeatureSample, SampledUser, first_ranked
from clm_ray.data.occasions import Occasion
from clm_ray.data.user_events import users_of
from clm_ray.features.asked import Joined
from clm_ray.features.tokens import TOKEN_VALUES, USER_MEAN_EVENTS, token_values
from clm_ray.schema import DAY_US, TEST, TRAIN, VALID

LOG_END = START + DAYS * DAY_US + 5 * HOUR_US
LOGS = rows(moments(0, DAYS * 24), slots=("front", "back", None), max_size=30)
FEW = settings(max_examples=25)


def split_at(time: int) -> int:
    return TRAIN if time < TRAIN_END else VALID if time < VALID_END else TEST


def is_context(row: Row) -> bool:
    return "context" in TYPES[row.type]["roles"]


@FEW
@given(LOGS)
def test_each_target_has_its_split_its_features_and_the_events_before_it(log: list[Row]) -> None:
    made = recipe()
    source = source_of(log, made)
    found = targets_of(build(log, made, log_end=LOG_END))
    assert Counter(target[:5] for target in found) == Counter(
        (row.user, row.time, row.item, label, TYPES[row.type].get("weight", 1.0))
        for row in log
        if (label := label_of(row)) is not None and row.time < VALID_END
    )
    for target in found:
        assert (target.split, target.offset) == (split_at(target.time), 0)
        mine = ordered(row for row in log if row.user == target.user)
        before = [(r.item, VOCABULARY.index[r.type], r.time) for r in mine if is_context(r) and r.time < target.time]
        reach = made.sequences.max_context
        assert list(target.context[-reach:]) == before[-reach:]
        # The same tokens as serving makes of the newest events, with as many more as the first gap and the user's mean look back on.
        context = history_of(r for r in mine if is_context(r) and r.time < target.time).tail(
            reach + USER_MEAN_EVENTS + 1
        )
        tokens = token_values(
            Joined.of([context]),
            statistics=source.statistics,
            vocabulary=VOCABULARY,
            prior=made.features.prior_strength,
        )
        np.testing.assert_array_equal(
            np.array(target.tokens[-reach:]).reshape(-1, len(TOKEN_VALUES)),
            tokens[-len(before[-reach:]) :][: len(before)],
        )
        dense = source.click(history_of(mine), np.array([target.item], np.int32), np.array([target.time]))
        np.testing.assert_allclose(target.dense, dense[0], rtol=1e-5, atol=1e-6)


def references_by_hand(log: list[Row], user: str) -> list[tuple[int, int, int, float, int]]:
    """(time, bin, bins seen, spend within the horizon, split) by the definition; spend is NaN where the split ends before."""
    made = recipe()
    mine = [row for row in log if row.user == user]
    active = sorted(row.time for row in mine if "activity" in TYPES[row.type]["roles"])
    found = []
    first = min(row.time for row in log) // DAY_US
    for day in range(first, LOG_END // DAY_US + 1, made.retention.every_days):
        time = day * DAY_US
        past = [moment for moment in active if moment < time]
        if time >= LOG_END or not past or time - past[-1] > made.retention.active_within_days * DAY_US:
            continue
        split = split_at(time)
        end = {TRAIN: TRAIN_END, VALID: VALID_END, TEST: LOG_END}[split]
        # A bin counts where all of it lies before the end of the reference's own split.
        seen = sum(time + days * DAY_US <= end for days in made.retention.bin_ends)
        if not seen:
            continue
        starts = (0, *made.retention.bin_ends)
        within = [
            any(time + starts[j] * DAY_US <= moment < time + starts[j + 1] * DAY_US for moment in active)
            for j in range(seen)
        ]
        horizon = time + max(made.retention.report_days) * DAY_US
        spend = sum(
            float(np.float32(row.value or 0)) for row in mine if row.type == "purchase" and time <= row.time < horizon
        )
        found.append(
            (
                time,
                within.index(True) if any(within) else len(made.retention.bin_ends),
                seen,
                spend if horizon <= end else math.nan,
                split,
            )
        )
    return found


@FEW
@given(LOGS)
def test_references_are_censored_at_the_end_of_their_split(log: list[Row]) -> None:
    result = build(log, recipe(), log_end=LOG_END)
    source = source_of(log)
    trained, tested = defaultdict(list), defaultdict(list)
    for r in references_of(result):
        trained[r.user].append((r.time, r.bin, r.seen, r.value, r.split))
        dense = source.retention(history_of(row for row in log if row.user == r.user), np.array([r.time]))
        np.testing.assert_allclose(r.dense, dense[0], rtol=1e-5, atol=1e-6)
    for row in result.references:
        tested[row["user_id"]].append((row["time"], row["bin"], row["censored"], row["value"], row["split"]))
    for user in {row.user for row in log}:
        expected = references_by_hand(log, user)
        for got, wanted in (
            (trained[user], [r for r in expected if r[4] != TEST]),
            (tested[user], [r for r in expected if r[4] == TEST]),
        ):
            assert [r[:3] + r[4:] for r in got] == [r[:3] + r[4:] for r in wanted]
            np.testing.assert_allclose([r[3] for r in got], [r[3] for r in wanted], rtol=1e-5, equal_nan=True)


def test_a_reference_is_followed_up_to_the_next_treatment() -> None:
    """Mail on day 6, a visit on day 10: who comes back after the mail is not taken for one who comes back by themselves."""
    visits = [Row("u1", START + day * DAY_US + HOUR_US, "login", 0, number=day + 1) for day in (0, 10)]
    mail = Row("u1", START + 6 * DAY_US, "mail", 1, number=99)
    made = recipe(
        retention={
            "every_days": 1,
            "active_within_days": 14,
            "bin_ends": [1, 3, 7],
            "report_days": [3, 7],
            "treatments": ["mail"],
        }
    )
    found = {
        (r.time - START) // DAY_US: (r.bin, r.seen, math.isnan(r.value))
        for r in references_of(build([*visits, mail], made, log_end=LOG_END))
    }
    assert found[3] == (3, 2, True), "three days are seen before the mail"
    assert found[4] == (3, 1, True)
    assert 6 not in found, "the mail comes at once: nothing is seen"
    assert found[7] == (2, 3, False), "after the mail there is no further one"
    # What was sent before the reference is seen by the features as ever.
    usual = {(r.user, r.time): r.dense for r in references_of(build([*visits, mail], recipe(), log_end=LOG_END))}
    censored = {(r.user, r.time): r.dense for r in references_of(build([*visits, mail], made, log_end=LOG_END))}
    both = usual.keys() & censored.keys()
    assert both
    for key in both:
        np.testing.assert_array_equal(usual[key], censored[key])


def test_a_recipe_without_retention_has_no_references() -> None:
    log = numbered(Row("u1", START + n * DAY_US, "login", 0) for n in range(20))
    assert references_of(build(log, recipe(), log_end=LOG_END))
    without = build(log, recipe(retention={"enabled": False}), log_end=LOG_END)
    assert (references_of(without), without.references) == ([], [])


SLATE = numbered(
    [
        Row("u1", START, "purchase", 1, 2.0, slot="front"),
        Row("u1", START + 2 * DAY_US, "impression", 0, decision="d1"),
        Row("u1", START + 2 * DAY_US + HOUR_US, "purchase", 2, 3.0, decision="d1"),
        Row("u1", START + 3 * DAY_US, "purchase", 1, 2.0, slot="front"),
        Row("u1", VALID_END + DAY_US, "impression", 0, decision="d2"),
        Row("u1", VALID_END + DAY_US + HOUR_US, "purchase", 4, 3.0, decision="d2"),
        *(Row("u2", START + n * DAY_US, "purchase", 3, 1.0, slot="front") for n in range(10)),
    ]
)


@pytest.mark.parametrize("negatives", ["explicit", "availability", "popularity"])
def test_a_served_slate_becomes_targets_as_of_its_moment(negatives: str) -> None:
    made = recipe(impressions={"negatives": negatives})
    result = build(SLATE, made, log_end=LOG_END)
    moment = START + 2 * DAY_US
    slate = [target for target in targets_of(result) if target.user == "u1" and target.time == moment]
    assert [(target.item, target.label) for target in slate] == [(1, 0), (2, 1), (3, 0)]
    # Features and context know the purchase of the first day, but nothing of the answer an hour later.
    assert {target.context for target in slate} == {((1, VOCABULARY.index["purchase"], START),)}
    history = history_of(row for row in SLATE if row.user == "u1" and row.time < moment)
    dense = source_of(SLATE, made).click(history, np.array([1, 2, 3], np.int32), np.full(3, moment))
    np.testing.assert_array_equal([target.dense for target in slate], dense)
    # The answer itself is part of the history, and no target of its own.
    assert not [target for target in targets_of(result) if target.time == moment + HOUR_US]


def test_a_slate_of_the_test_split_is_evaluated_whole() -> None:
    result = build(SLATE, recipe(), log_end=LOG_END)
    [shown] = [row for row in result.impressions if row["time"] == VALID_END + DAY_US]
    assert (shown["user_id"], shown["kind"], shown["split"]) == ("u1", "shown", TEST)
    assert shown["item"].tolist() == [4, 5, 6]
    assert shown["label"].tolist() == [1, 0, 0]
    assert shown["weight"].tolist() == [1, 1, 1]
    sampled = build(SLATE, recipe(impressions={"negatives": "availability"}), log_end=LOG_END)
    [occasion] = [test.occasion for test in sampled.test_occasions if test.occasion.kind == "decision"]
    assert (occasion.slot, occasion.taken.tolist()) == ("decision:d2", [4])
    assert set(OFFERS["decision:d2"]) == {4, 5, 6}


@FEW
@given(LOGS)
def test_explicit_test_rows_are_evaluated_as_they_stand(log: list[Row]) -> None:
    found = Counter(
        (row["user_id"], row["time"], int(item), float(label), float(weight), row["split"], row["kind"])
        for row in build(log, recipe(), log_end=LOG_END).impressions
        for item, label, weight in zip(row["item"], row["label"], row["weight"], strict=True)
    )
    assert found == Counter(
        (row.user, row.time, row.item, label, TYPES[row.type].get("weight", 1.0), TEST, "shown")
        for row in log
        if (label := label_of(row)) is not None and row.time >= VALID_END
    )


def interactions_of(result: BucketResult) -> dict[tuple[str, int], tuple[float, int]]:
    return {
        (user, int(item)): (float(weight), int(events))
        for user, *columns in result.interactions
        for item, weight, events in zip(*columns, strict=True)
    }


@FEW
@given(LOGS)
def test_the_interaction_matrix_counts_the_positives_of_the_training_period(log: list[Row]) -> None:
    expected: dict[tuple[str, int], tuple[float, int]] = {}
    for row in log:
        if label_of(row) == 1.0 and row.time < TRAIN_END:
            weight, events = expected.get((row.user, row.item), (0.0, 0))
            expected[row.user, row.item] = weight + TYPES[row.type].get("weight", 1.0), events + 1
    assert interactions_of(build(log, recipe(), log_end=LOG_END)) == expected


@FEW
@given(LOGS)
def test_the_interaction_matrix_of_a_split_by_user_holds_no_test_rows(log: list[Row]) -> None:
    log = [*log, *numbered(Row("u9", START + n * HOUR_US, "purchase", 1, 1.0, number=100 + n) for n in range(10))]
    result = build(log, recipe(split={"protocol": "per_user"}), log_end=LOG_END)
    trained = Counter((t.user, t.item) for t in targets_of(result) if t.split == TRAIN and t.label == 1)
    for cell, (_, events) in interactions_of(result).items():
        assert events <= trained[cell]


def test_refit_trains_on_everything() -> None:
    made = recipe(split={"refit": True, "protocol": "time", "train_end": "2022-01-23", "valid_end": "2022-01-28"})
    result = build(SLATE, made, log_end=LOG_END)
    assert {target.split for target in targets_of(result)} == {TRAIN}
    assert max(target.time for target in targets_of(result)) == VALID_END + DAY_US
    assert (result.impressions, result.references, result.test_occasions) == ([], [], [])
    assert interactions_of(result)["u1", 4] == (1.0, 1)


def test_selection_looks_at_a_bounded_sample_of_train_rows() -> None:
    log = numbered(Row("u1", START + n * HOUR_US, "skip", 1 + n % 6) for n in range(200))
    log += numbered(Row("u1", TRAIN_END + n * HOUR_US, "purchase", 1, 1.0, number=500 + n) for n in range(10))
    [user] = build(log, recipe(), log_end=LOG_END).sample.click
    assert (len(user.dense_NF), set(user.label_N.tolist())) == (SAMPLE_PER_USER, {0.0})


def test_selection_knows_references_by_the_horizon_that_was_seen_in_full() -> None:
    """A short train period shows who came back within a week, if not within four."""
    log = numbered(Row("u1", START + day * DAY_US, "login", 0) for day in range(0, 60, 3))
    log += [Row("u1", START, "skip", 1, number=99)]
    made = recipe(retention={"report_days": [7, 28]})
    samples = build(log, made, log_end=LOG_END).sample.retention
    grid = [r for r in references_of(build(log, made, log_end=LOG_END)) if r.split == TRAIN]
    for days in (7, 28):
        last = made.retention.bin_ends.index(days)
        expected = [float(r.bin <= last) for r in grid if r.seen > last]
        assert [label for user in samples[days] for label in user.label_N.tolist()] == expected
    assert sum(len(u.label_N) for u in samples[7]) > 0
    assert sum(len(u.label_N) for u in samples[28]) == 0


def test_selection_looks_at_the_users_of_smallest_rank_until_its_rows_are_together() -> None:
    def sampled(rank: int, rows: int) -> SampledUser:
        return SampledUser(rank, np.zeros((rows, 2), np.float32), np.zeros(rows, np.float32))

    users = [sampled(rank, SAMPLE_ROWS // 4) for rank in (5, 3, 9, 1, 7, 8)] + [sampled(0, 0)]
    assert [user.rank for user in first_ranked(users)] == [1, 3, 5, 7]
    one, two = FeatureSample(users[:3], {7: users[:3]}), FeatureSample(users[3:], {28: users[3:]})
    both = FeatureSample().joined(two).joined(one)
    assert [user.rank for user in both.click] == [1, 3, 5, 7], "the same whatever the buckets"
    assert {days: [user.rank for user in of] for days, of in both.retention.items()} == {7: [3, 5, 9], 28: [1, 7, 8]}


def test_both_fixed_samples_are_those_of_smallest_rank() -> None:
    def moment(rank: int, chosen: int) -> HeldOutOccasion:
        items = np.arange(1, chosen + 1, dtype=np.int32)
        return HeldOutOccasion(rank, "u", Occasion(0, "explicit", items, items, None, 1.0))

    found = [moment(4, 1), moment(1, 0), moment(3, 0), moment(2, 1), moment(5, 1), moment(6, 1)]
    config = ImpressionsConfig(test_occasions=2, catalogue_occasions=3)
    sample = drawn(found, config)
    assert ([t.rank for t in sample.shown], [t.rank for t in sample.catalogue]) == ([1, 2], [2, 4, 5])
    assert [t.rank for t in sample.all()] == [1, 2, 4, 5]
    halves = [*drawn(found[:3], config).all(), *drawn(found[3:], config).all()]
    assert drawn(halves, config) == sample, "the same whatever the buckets"


def test_a_log_that_goes_on_without_activity_shows_nobody_leaving() -> None:
    """Mail is no activity: what is sent after the last visit says nothing about who came back."""
    visits = [Row("u1", START + day * DAY_US, "login", 0, number=day) for day in range(40)]
    mails = [Row("u1", START + day * DAY_US, "mail", 1, number=100 + day) for day in range(40, 120)]
    end = {"log_end": START + 120 * DAY_US, "activity_end": visits[-1].time + 1}
    made = recipe(split={"protocol": "time", "train_end": "2022-06-01", "valid_end": "2022-06-02"})
    made = made.model_copy(update={"split": made.split.model_copy(update={"refit": True})})
    found = references_of(build(visits + mails, made, **end))
    assert max(reference.time for reference in found) < visits[-1].time
    without_mail = references_of(build(visits, made, log_end=visits[-1].time + 1))
    assert [repr(r) for r in found] == [repr(r) for r in without_mail]


def test_gaps_are_those_of_active_days_in_the_training_period() -> None:
    days = [0, 0, 3, 4, 14, 15, 16]
    log = numbered(Row("u1", START + day * DAY_US + n * HOUR_US, "login", 0) for n, day in enumerate(days))
    log += [Row("u1", START + 8 * DAY_US, "mail", 1, number=99), Row("u2", START, "skip", 1, number=100)]
    log += [Row("u3", START + day * DAY_US, "login", 0, number=101 + day) for day in (0, 3)]
    gaps = build(log, recipe(), log_end=LOG_END).gaps
    assert dict(zip(gaps.key_N.tolist(), gaps.count_N.tolist(), strict=True)) == {1: 1, 3: 2, 10: 1}


@FEW
@given(LOGS)
def test_users_come_one_by_one_with_their_rows(log: list[Row]) -> None:
    table = table_of(log)
    table = pa.concat_tables([table[:3], table[3:7], table[7:]])
    found = list(users_of(table, source_of(log)))
    assert [user.user_id for user in found] == sorted({row.user for row in log})
    for user in found:
        mine = ordered(row for row in log if row.user == user.user_id)
        expected = history_of(mine)
        for name in ("item_N", "event_N", "value_N", "time_N"):
            np.testing.assert_array_equal(getattr(user.history, name), getattr(expected, name))
        assert user.slot_N.tolist() == [row.slot for row in mine]
        assert user.decision_N.tolist() == [row.decision for row in mine]


@pytest.mark.parametrize("negatives", ["availability", "popularity"])
@pytest.mark.parametrize("protocol", ["row_share", "per_user"])
def test_sampled_negatives_go_with_every_split(negatives: str, protocol: str) -> None:
    """Ids of the made catalogue are words; those of a shop are often numbers."""
    made: dict[str, Any] = {"split": {"protocol": protocol}, "impressions": {"negatives": negatives, "per_occasion": 2}}
    log = numbered(
        Row(user, START + (n + late) * DAY_US, "purchase", 1 + n % 4, 1.0, slot="front")
        for late, user in enumerate(("u1", "u2"))
        for n in range(20)
    )
    builder = builder_of(log, recipe(**made), log_end=LOG_END)
    result = builder.build(table_of(log))
    by_occasion: dict[tuple[str, int], set[int]] = defaultdict(set)
    for target in targets_of(result):
        by_occasion[target.user, target.time].add(target.split)
    assert all(len(splits) == 1 for splits in by_occasion.values())
    counts = Counter(split for splits in by_occasion.values() for split in splits)
    counts[TEST] = len(result.test_occasions)
    # On the first day nothing is popular yet: there is nothing to ask about.
    nothing_yet = 1 if negatives == "popularity" else 0
    assert (counts[TRAIN], counts[VALID], counts[TEST]) == (32 - nothing_yet, 4, 4)
    new = 4 if negatives == "popularity" else 0  # each of the four items, on its first day
    assert (result.positives, result.asked) == (40, 40 - new)
    assert not set(by_occasion) & {(test.user_id, test.occasion.time) for test in result.test_occasions}


def test_an_empty_bucket_gives_nothing() -> None:
    log = numbered(Row("u1", START + n * HOUR_US, "skip", 1) for n in range(3))
    result = builder_of(log, recipe(), log_end=LOG_END).build(table_of([]))
    assert (result.windows, result.impressions, result.references, result.interactions) == ([], [], [], [])
    assert len(ITEMS) == 7
