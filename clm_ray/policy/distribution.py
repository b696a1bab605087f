"""From weights to one drawn action, with the exact probability of each.

A distribution is a dict action → probability over the feasible actions, in catalogue order, summing to 1. Whatever is not in
it has probability 0. Draws are hashes, not random numbers: the same (salt, user, epoch) always draws the same action.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from clm_ray.config.policy import NO_ACTION

_BITS = 53


def distribution(weights: Mapping[str, float], feasible: Sequence[str], *, floor: float) -> dict[str, float]:
    """Normalise `weights` over `feasible` and keep at least `floor` for each.

    p(a) = f + (1 - n·f) · w(a) / Σw with n feasible actions and f = min(floor, 1/n). Actions without a weight have 0; when no feasible
    action has weight, `none` gets what the floor leaves, or all get the same where a rule left no `none`.
    """
    given = {name: weights.get(name, 0.0) for name in feasible}
    total = sum(given.values())
    if total <= 0:
        given = {name: float(name == NO_ACTION or NO_ACTION not in feasible) for name in feasible}
        total = sum(given.values())
    least = min(floor, 1 / len(given))
    return {name: least + (1 - len(given) * least) * (weight / total) for name, weight in given.items()}


def with_uniform_slice(policy: Mapping[str, float], *, share: float) -> dict[str, float]:
    """The marginal probabilities when a `share` of (user, epoch) pairs is decided uniformly: (1 - u) · p + u / n."""
    return {name: (1 - share) * p + share / len(policy) for name, p in policy.items()}


def draw(probabilities: Mapping[str, float], *, salt: str, user_id: str, epoch: int) -> str:
    """The action of this user and epoch: inverse transform of a SHA-256 hash of (salt, user, epoch).

    One draw from the marginal distribution stands for "uniform slice or policy, then an action": the probabilities are the same.
    """
    point = hashed_uniform("draw", salt, user_id, str(epoch))
    chosen = NO_ACTION
    for name, probability in probabilities.items():
        if probability > 0:
            chosen = name
            if point < probability:
                break
            point -= probability
    return chosen


def in_holdout(user_id: str, *, experiment: str, share: float) -> bool:
    """Does this user never get an action? A hash of (experiment, user): stable, and a larger share only adds users."""
    return hashed_uniform("holdout", experiment, user_id) < share


def hashed_uniform(*parts: str) -> float:
    """A number in [0, 1) from the SHA-256 of `parts`; parts are length-prefixed, so no two lists of parts read alike."""
    text = "".join(f"{len(part)}:{part}" for part in parts)
    digest = hashlib.sha256(text.encode()).digest()
    return float((int.from_bytes(digest[:8], "big") >> (64 - _BITS)) / (1 << _BITS))
