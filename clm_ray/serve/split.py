"""Two releases side by side: which of them answers a user."""

from __future__ import annotations

from dataclasses import dataclass

from clm_ray.policy.distribution import hashed_uniform

INCUMBENT, CHALLENGER = "incumbent", "challenger"
"""The arms: the release that the endpoint serves, and the one beside it."""


@dataclass(frozen=True)
class Split:
    """A share of the users goes to the challenger: those whose hash of (experiment, user) lies below it. So a user stays in their arm, and a
    larger share only adds users to the challenger's; another `experiment` draws anew.
    """

    share: float
    experiment: str

    def arm(self, user_id: str) -> str:
        """The arm of a user, by the id under which the store knows them."""
        point = hashed_uniform("split", self.experiment, user_id)
        return CHALLENGER if point < self.share else INCUMBENT
