"""Two releases side by side: which of them answers a user."""

from __future__ import annotations

from dataclasses import dataclass

from clm_ray.policy.distribution import hashed_uniform
from clm_ray.serve.catalogue import ServedCatalogue

INCUMBENT, CHALLENGER = "incumbent", "challenger"
"""The arms: the release that the endpoint serves, and the one beside it."""


@dataclass(frozen=True)
class Challenger:
    """The second release and its share of the users: those whose hash of (experiment, user) lies below the share. So a user stays with one
    release, and a larger share only adds users; another `experiment` draws them anew.
    """

    served: ServedCatalogue
    share: float
    experiment: str

    def takes(self, user_id: str) -> bool:
        """Does it answer this user (by the id under which the store knows them)?"""
        return hashed_uniform("split", self.experiment, user_id) < self.share
