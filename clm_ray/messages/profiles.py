"""Who a user is, and what is done for users like that."""

from __future__ import annotations

from typing import Any

from clm_ray.config.policy import Stage
from clm_ray.messages.fields import Answer, Probability


class Strategy(Answer):
    """What is done for users of this stage. Probabilities are the model's whatever it does."""

    name: str
    """`convert`, `teach`, `deepen`, `treat`, `win_back`, `watch`, or as the recipe has it."""
    why: str
    """In words."""
    slate: dict[str, Any]
    """What shapes the slate: the options of the recipe's section `strategy` that are set. Empty: probability and the shop's rules alone."""
    actions: list[str]
    """Retention actions that may be taken at this stage; the single decision may have fewer to choose from."""
    brought_in: list[str] | None = None
    """Items of this slate that would not be in it without the strategy. Null where it shaped no slate: none was asked for, or no model ranked it."""


class Interest(Answer):
    """A category and its share of the user's attention."""

    category: str
    weight: Probability
    """Recent choices weigh more; the shares of all categories sum to 1."""


class Profile(Answer):
    """Who the user is at one moment; only events strictly before it count."""

    stage: Stage
    """Life-cycle stage."""
    why: str
    """The rule and the numbers that put the user there."""
    strategy: Strategy | None = None
    """What is done at this stage; null where the recipe has switched strategies off."""
    chance_active: dict[str, Probability] | None
    """Days → probability of being active again within them; null with a reason."""
    chance_active_reason: str | None = None
    """Why there is no chance."""
    expected_spend: float | None = None
    """Within the longest of those days; null where the release has no output `value`."""
    next_action: dict[str, Probability] | None = None
    """Event type → probability of being the user's next; null where the release has no output `next_action`."""
    recency_days: float | None
    """Days since the last activity; null for none."""
    frequency: dict[str, int]
    """Days → days with activity within the last so many days."""
    monetary: dict[str, float]
    """Days → spend within the last so many days."""
    tenure_days: float | None
    """Days since the first activity; null for none."""
    interests: list[Interest]
    """Strongest first."""
    events: int
    """Events of the history that the answer is based on."""


class UserProfile(Answer):
    """A profile by itself."""

    user_id: str
    time: int
    release: str
    profile: Profile
