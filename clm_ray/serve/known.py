"""What a profiler remembers of users between requests: everything that follows from a history whatever the moment.

An entry holds for as long as the store has the same events of the user (`HistoryMark`): one more, one less or another base, and the
history is read anew. So new events count in the very next request, and erased ones no longer. One that speaks of items which nobody knew also
ends when the catalogue changes: they may have been put since.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from clm_ray.features.catalogue import Catalogue
from clm_ray.features.history import History
from clm_ray.features.interests import interests
from clm_ray.model.inference import Scorer, UserRequest, UserState
from clm_ray.store.history import StoredHistory
from clm_ray.store.records import HistoryMark


@dataclass(frozen=True)
class KnownUser:
    """One user. `state`, `liked`: as of a moment after the whole history; other such moments differ in what `Scorer.later` changes.

    state None: too long a history for it to hold at other moments.
    """

    mark: HistoryMark
    history: History
    state: UserState | None
    liked: list[tuple[str, float]]
    unknown_in: Catalogue | None = None
    """The catalogue that does not know an item of the history; None where all are known."""

    def may_hold(self, catalogue: Catalogue) -> bool:
        """Whether no item of the history may have become known since."""
        return self.unknown_in is None or self.unknown_in is catalogue

    def holds(self, time: int) -> bool:
        """Whether the whole history lies before `time` (µs)."""
        return not len(self.history) or int(self.history.time_N[-1]) < time


class KnownUsers:
    """The users asked for last, at most `most` of them. Any thread may call."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._users: OrderedDict[tuple[str, str], KnownUser] = OrderedDict()

    def find(self, release: str, marks: Mapping[str, HistoryMark], *, catalogue: Catalogue) -> dict[str, KnownUser]:
        """Those whose entry still holds. `catalogue`: the release's as it is now."""
        found = {}
        with self._lock:
            for user, mark in marks.items():
                known = self._users.get((release, user))
                if known is not None and known.mark == mark and known.may_hold(catalogue):
                    self._users.move_to_end((release, user))
                    found[user] = known
        return found

    def keep(self, release: str, users: Mapping[str, KnownUser]) -> None:
        """Remember these, and forget those that were not asked for the longest."""
        with self._lock:
            for user, known in users.items():
                self._users[release, user] = known
                self._users.move_to_end((release, user))
            while len(self._users) > self._most:
                self._users.popitem(last=False)


def read(stored: Mapping[str, StoredHistory], marks: Mapping[str, HistoryMark], scorer: Scorer) -> dict[str, KnownUser]:
    """What these histories say."""
    histories = {
        user: h.history(row_of=scorer.items.row_of, event_of=scorer.vocabulary.index) for user, h in stored.items()
    }
    ends = {user: int(h.time_N[-1]) + 1 if len(h) else 0 for user, h in histories.items()}
    states = scorer.states([UserRequest(user, h, ends[user]) for user, h in histories.items()])
    return {
        user: KnownUser(
            mark=marks[user],
            history=history,
            state=state if scorer.holds_later(history) else None,
            liked=interests(history, ends[user], catalogue=scorer.items, vocabulary=scorer.vocabulary),
            unknown_in=None if all(map(scorer.items.row_of.__contains__, stored[user].items)) else scorer.items,
        )
        for (user, history), state in zip(histories.items(), states, strict=True)
    }
