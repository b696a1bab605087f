"""What became of served slates: each joined, by its decision_id, to the events that answered it within a window.

An answer is an event that quotes the slate's decision_id, names one of its items, and lies at or after the slate's time and less than
the window after it. Events that quote nothing are not guessed to be answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from clm_ray.config.source import EventTypeConfig
from clm_ray.metrics.outcomes import Shown
from clm_ray.store.engine import chunks
from clm_ray.store.records import ServedSlate
from clm_ray.store.store import Store
from clm_ray.store.tables import EVENTS, SERVED_SLATES

_SLATES_AT_ONCE = 2000


@dataclass(frozen=True)
class Answer:
    """An event that quotes a slate. `timestamp`: µs."""

    decision_id: str
    timestamp: int
    item_id: str
    event_type: str
    value: float | None


@dataclass(frozen=True)
class Meaning:
    """What event types say about a shown item. positive: type → the least value that is positive, None for any; amounts: types whose value
    is money.
    """

    positive: Mapping[str, float | None]
    amounts: frozenset[str]

    @staticmethod
    def of(event_types: Mapping[str, EventTypeConfig]) -> Meaning:
        """As the recipe says."""
        return Meaning(
            positive={
                name: kind.positive_from
                for name, kind in event_types.items()
                if "positive" in kind.roles or kind.positive_from is not None
            },
            amounts=frozenset(name for name, kind in event_types.items() if kind.value == "amount"),
        )

    def is_positive(self, answer: Answer) -> bool:
        """Does it say that the item was wanted?"""
        if answer.event_type not in self.positive:
            return False
        least = self.positive[answer.event_type]
        return least is None or (answer.value is not None and answer.value >= least)


@dataclass(frozen=True)
class Outcome:
    """A slate and what became of it: which of its items were answered positively, and what was spent on them."""

    slate: ServedSlate
    taken: tuple[bool, ...]
    revenue: float


def join(
    slates: Sequence[ServedSlate], answers: Iterable[Answer], *, meaning: Meaning, window_us: int
) -> list[Outcome]:
    """The outcome of each slate, in order. Whatever the order of `answers`; those that answer none of the slates are left out."""
    quoted: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        quoted[answer.decision_id].append(answer)
    return [_outcome(slate, quoted.get(slate.decision_id, ()), meaning, window_us) for slate in slates]


def outcomes(
    store: Store, *, since: int, until: int, meaning: Meaning, window_us: int, most: int | None = None
) -> Iterator[Outcome]:
    """Outcomes of the slates of since ≤ time < until (µs) that hold items, newest first, at most `most` of them.

    For outcomes to be known, `until` must lie at least the window before now.
    """
    before, left = None, most
    while left is None or left > 0:
        page = _page(store, since=since, until=until, before=before, rows=min(_SLATES_AT_ONCE, left or _SLATES_AT_ONCE))
        if not page:
            return
        before = page[-1][0]
        left = None if left is None else left - len(page)
        slates = [slate for _, slate in page if slate.items]
        yield from join(slates, _answers(store, slates, window_us), meaning=meaning, window_us=window_us)


def shown(found: Sequence[Outcome], *, probabilities: Sequence[Sequence[float]] | None = None) -> Shown:
    """As arrays. `probabilities`: per slate another version's probability of each item, instead of those served."""
    served = [one.slate.probabilities for one in found] if probabilities is None else probabilities
    probability = [p or (float("nan"),) * len(one.slate.items) for one, p in zip(found, served, strict=True)]
    return Shown.of(
        [one.slate.user_id for one in found],
        revenue=[one.revenue for one in found],
        slate=[n for n, one in enumerate(found) for _ in one.slate.items],
        probability=[value for row in probability for value in row],
        label=[float(taken) for one in found for taken in one.taken],
    )


def _outcome(slate: ServedSlate, answers: Sequence[Answer], meaning: Meaning, window_us: int) -> Outcome:
    items = set(slate.items)
    counted = [a for a in answers if a.item_id in items and slate.time <= a.timestamp < slate.time + window_us]
    taken = {a.item_id for a in counted if meaning.is_positive(a)}
    spent = sum(a.value or 0.0 for a in counted if a.event_type in meaning.amounts)
    return Outcome(slate, tuple(item in taken for item in slate.items), spent)


def _page(
    store: Store, *, since: int, until: int, before: tuple[int, int] | None, rows: int
) -> list[tuple[tuple[int, int], ServedSlate]]:
    """The next slates, newest first, each with its place (time, seq)."""
    of = SERVED_SLATES.c
    query = select(of.time, of.seq, of.record).where(of.time >= since, of.time < until)
    if before is not None:
        query = query.where((of.time < before[0]) | ((of.time == before[0]) & (of.seq < before[1])))
    with store.reading() as connection:
        found = connection.execute(query.order_by(of.time.desc(), of.seq.desc()).limit(rows)).all()
    return [((row.time, row.seq), ServedSlate.from_json(row.record)) for row in found]


def _answers(store: Store, slates: Sequence[ServedSlate], window_us: int) -> Iterator[Answer]:
    """Events of the slates' users that quote a slate, within the time that any of these slates may be answered in."""
    if not slates:
        return
    of = EVENTS.c
    first, last = min(s.time for s in slates), max(s.time for s in slates) + window_us
    query = select(of.decision_id, of.timestamp, of.item_id, of.event_type, of.value).where(
        of.timestamp >= first, of.timestamp < last, of.decision_id.is_not(None), of.item_id.is_not(None)
    )
    with store.reading() as connection:
        for users in chunks(dict.fromkeys(slate.user_id for slate in slates)):
            for row in connection.execute(query.where(of.user_id.in_(users))):
                yield Answer(*row)
