"""Windows: every target and reference exactly once, with the context before it in its own row."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clm_ray.data.occasions import Targets
from clm_ray.data.windows import References, cut_windows
from clm_ray.features.history import History

TIMES = st.lists(st.integers(0, 20), max_size=30).map(sorted)


def made(
    context: list[int], targets: list[int], references: list[int], *, max_context: int, body: int
) -> list[dict[str, Any]]:
    """Windows whose values say which event, target or reference they are."""
    numbers = np.arange(len(context))
    history = History(
        numbers.astype(np.int32), numbers.astype(np.int16), numbers.astype(np.float32), np.array(context, np.int64)
    )
    t, r = np.arange(len(targets)), np.arange(len(references))
    return list(
        cut_windows(
            "u",
            history,
            np.stack([numbers, -numbers], axis=1).astype(np.float32),
            Targets(
                t.astype(np.int32),
                t.astype(np.float32),
                t.astype(np.float32),
                t.astype(np.float32),
                np.array(targets, np.int64),
                t.astype(np.float32),
            ),
            t.astype(np.int32),
            t[:, None].astype(np.float32),
            References(
                np.array(references, np.int64), *(r.astype(kind) for kind in (np.int32, np.int32, np.float32, np.int32))
            ),
            r[:, None].astype(np.float32),
            max_context=max_context,
            body=body,
        )
    )


@settings(max_examples=200)
@given(TIMES, TIMES, TIMES, st.integers(1, 5), st.integers(1, 5))
def test_everyone_finds_the_events_before_them(
    context: list[int], targets: list[int], references: list[int], max_context: int, body: int
) -> None:
    windows = made(context, targets, references, max_context=max_context, body=body)
    for name, asked in (("tgt", targets), ("ref", references)):
        found = {}
        for window in windows:
            for place, (time, position) in enumerate(zip(window[f"{name}_time"], window[f"{name}_pos"], strict=True)):
                number = int(window[f"{name}_dense"][place, 0])
                assert number not in found
                found[number] = window["ctx_item"][:position].tolist()
                # What stands before the position lies before the moment, what stands behind it does not.
                assert all(moment < time for moment in window["ctx_time"][:position])
                assert all(moment >= time for moment in window["ctx_time"][position:])
        assert sorted(found) == list(range(len(asked)))
        for number, time in enumerate(asked):
            before = [n for n, moment in enumerate(context) if moment < time]
            assert found[number][-max_context:] == before[-max_context:]
            assert len(found[number]) >= min(len(before), max_context)


@settings(max_examples=100)
@given(TIMES, TIMES, TIMES, st.integers(1, 5), st.integers(1, 5))
def test_rows_are_whole_and_bounded(
    context: list[int], targets: list[int], references: list[int], max_context: int, body: int
) -> None:
    windows = made(context, targets, references, max_context=max_context, body=body)
    assert len({window["window"] for window in windows}) == len(windows)
    for window in windows:
        events = window["ctx_item"].tolist()
        assert events == list(range(events[0], events[0] + len(events))) if events else True
        assert len(events) <= max_context + body
        assert window["ctx_event"].tolist() == window["ctx_value"].tolist() == events
        assert window["ctx_dense"].tolist() == [[n, -n] for n in events]
        assert window["ctx_time"].tolist() == [context[n] for n in events]
        numbers = window["tgt_item"].tolist()
        assert all(
            window[f"tgt_{name}"].tolist() == numbers for name in ("label", "weight", "offset", "rating", "split")
        )
        assert window["tgt_time"].tolist() == [targets[n] for n in numbers]
        numbers = window["ref_bin"].tolist()
        assert all(window[f"ref_{name}"].tolist() == numbers for name in ("censored", "value", "split"))
        assert window["ref_time"].tolist() == [references[n] for n in numbers]
        assert numbers or len(window["tgt_item"])


def test_a_window_ends_with_what_its_last_question_needs() -> None:
    [window] = made([1, 2, 3, 4], [3], [], max_context=4, body=4)
    assert window["ctx_time"].tolist() == [1, 2]


def test_nothing_asked_gives_no_window() -> None:
    assert made([1, 2, 3], [], [], max_context=4, body=4) == []
    [window] = made([], [5], [0], max_context=4, body=4)
    assert (window["tgt_pos"].tolist(), window["ref_pos"].tolist(), len(window["ctx_item"])) == ([0], [0], 0)
