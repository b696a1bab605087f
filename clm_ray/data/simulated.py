"""A made log of any size: users who arrive, are active in sessions and leave; items of Zipf popularity; made part by part, in parallel.

Nothing in it comes from real people; the log is for measuring speed and memory, and for trying a recipe. What is in it to be found: a user
prefers one category, some users are far more active than others, and a user's sessions end some day.

Shape letters: N events, U users of a part, S sessions, I items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clm_ray.schema import DAY_US, TIMESTAMP

TYPES = ("view", "cart", "purchase")
_SHARES = (0.8, 0.12, 0.08)
_SESSION_EVENTS = 8
"""Mean number of events of a session."""
_SECOND_US = 1_000_000
_START_US = 1_704_067_200_000_000
"""2024-01-01 UTC."""
_WORDS = ("red", "small", "warm", "light", "round", "soft", "plain", "fine", "wide", "old")
_THINGS = ("lamp", "coat", "bread", "chair", "book", "kettle", "shoe", "pen", "bag", "clock", "cup", "rug")


@dataclass(frozen=True)
class Simulation:
    """Size and shape of a made log. `activity_sigma`: spread of the logarithm of a user's share of the events; `zipf`: exponent of the items'
    popularity; `loyalty`: share of a user's events that are of the favourite category; `events_per_part`: what one task makes, so that the
    log depends on these options alone and not on the cluster.
    """

    events: int
    users: int
    items: int = 10_000
    categories: int = 50
    days: int = 365
    seed: int = 0
    activity_sigma: float = 1.2
    zipf: float = 1.0
    loyalty: float = 0.6
    lifetime_days: float = 90.0
    events_per_part: int = 1_000_000

    @property
    def parts(self) -> int:
        """Number of parts."""
        return max(1, -(-self.events // self.events_per_part))

    def events_of(self, part: int) -> int:
        """Number of events of a part."""
        return self.events * (part + 1) // self.parts - self.events * part // self.parts

    def users_of(self, part: int) -> tuple[int, int]:
        """(first user, number of users) of a part; with fewer users than parts one user is in several."""
        first, stop = self.users * part // self.parts, self.users * (part + 1) // self.parts
        return first, max(1, stop - first)


def simulated_items(made: Simulation) -> pa.Table:
    """item_id, name, category, price of every item, the most popular first."""
    rng = np.random.default_rng([made.seed, 1])
    word, thing = rng.integers(0, len(_WORDS), made.items), rng.integers(0, len(_THINGS), made.items)
    numbers = range(made.items)
    return pa.table(
        {
            "item_id": [f"i{n:07d}" for n in numbers],
            "name": [f"{_WORDS[word[n]]} {_THINGS[thing[n]]} no. {n}" for n in numbers],
            "category": [f"c{n % made.categories:03d}" for n in numbers],
            "price": _prices(made),
        }
    )


def _prices(made: Simulation) -> NDArray[np.float64]:
    return np.round(np.random.default_rng([made.seed, 3]).lognormal(2.5, 0.8, made.items), 2)


def simulated_events(made: Simulation, part: int) -> pa.Table:
    """user_id, item_id, event_type, timestamp, value of the events of one part, by time. The same for the same simulation and part."""
    rng = np.random.default_rng([made.seed, 2, part])
    count = made.events_of(part)
    first, users = made.users_of(part)
    weight_U = rng.lognormal(0.0, made.activity_sigma, users)
    user_N = np.repeat(np.arange(users), rng.multinomial(count, weight_U / weight_U.sum()))
    time_N = _times(made, user_N, users=users, rng=rng)
    item_N = _items(made, rng.integers(0, made.categories, users)[user_N], rng=rng)
    kind_N = rng.choice(len(TYPES), count, p=_SHARES)
    price_I = _prices(made)
    order = np.argsort(time_N, kind="stable")
    user_N, time_N, item_N, kind_N = (values[order] for values in (user_N, time_N, item_N, kind_N))
    bought_N = kind_N == TYPES.index("purchase")
    return pa.table(
        {
            "user_id": _named("u", first + user_N, width=9),
            "item_id": _named("i", item_N, width=7),
            "event_type": pa.DictionaryArray.from_arrays(pa.array(kind_N.astype(np.int8)), pa.array(TYPES)).cast(
                pa.string()
            ),
            "timestamp": pa.array(time_N, TIMESTAMP),
            "value": pa.array(price_I[item_N], mask=~bought_N),
        }
    )


def _times(made: Simulation, user_N: NDArray[np.int64], *, users: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """int64_N, µs: each user's events in sessions, between an arrival spread over the log and a lifetime that ends some day."""
    span = made.days * DAY_US
    arrival_U = rng.integers(0, span, users)
    life_U = np.minimum(rng.exponential(made.lifetime_days * DAY_US, users) + DAY_US, span - arrival_U)
    events_U = np.bincount(user_N, minlength=users)
    sessions_U = np.maximum(1, events_U // _SESSION_EVENTS)
    base_U = np.concatenate([[0], np.cumsum(sessions_U)[:-1]])
    owner_S = np.repeat(np.arange(users), sessions_U)
    start_S = arrival_U[owner_S] + rng.random(len(owner_S)) * life_U[owner_S]
    session_N = base_U[user_N] + (rng.random(len(user_N)) * sessions_U[user_N]).astype(np.int64)
    within_N = rng.exponential(300 * _SECOND_US, len(user_N))
    offset_N = np.minimum(start_S[session_N] + within_N, span - 1)
    # Whole seconds, as most logs have them: ties in time occur.
    return np.asarray(_START_US + offset_N.astype(np.int64) // _SECOND_US * _SECOND_US)


def _items(made: Simulation, favourite_N: NDArray[np.int64], *, rng: np.random.Generator) -> NDArray[np.int64]:
    """int64_N: item numbers, Zipf over all items or, for loyal events, over those of the user's category."""
    rank_N = _zipf(made.items, made.zipf, len(favourite_N), rng=rng)
    places = made.items // made.categories
    loyal_N = (rng.random(len(favourite_N)) < made.loyalty) & (places > 0)
    within_N = _zipf(max(places, 1), made.zipf, len(favourite_N), rng=rng)
    return np.where(loyal_N, within_N * made.categories + favourite_N, rank_N)


def _zipf(count: int, exponent: float, size: int, *, rng: np.random.Generator) -> NDArray[np.int64]:
    """int64: ranks from 0, with chance in proportion to (rank + 1) ** -exponent."""
    cumulative = np.cumsum(np.arange(1, count + 1, dtype=np.float64) ** -exponent)
    return np.searchsorted(cumulative, rng.random(size) * cumulative[-1], side="right").clip(max=count - 1)


def _named(letter: str, number_N: NDArray[Any], *, width: int) -> pa.Array:
    distinct, where = np.unique(number_N, return_inverse=True)
    names = pa.array([f"{letter}{n:0{width}d}" for n in distinct.tolist()])
    return names.take(pa.array(where))
