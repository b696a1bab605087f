"""The decision on what to do to keep a user."""

from __future__ import annotations

from clm_ray.messages.fields import Answer, Probability


class ExpectedUplift(Answer):
    """What an action was expected to gain when it was decided on."""

    uplift: float
    """Gain in the probability of being active until the outcome is due."""
    low: float
    high: float
    """95 % interval."""
    source: str
    """Where it comes from: a prior, or a prior and so many decisions."""
    score: float
    """uplift × worth of the user - cost × (1 + price), in the recipe's currency."""


class RetentionAction(Answer):
    """The one decision of this user's decision period, and how it came about."""

    action_id: str
    """The record of this decision in the store; the same for every answer within the period."""
    action: str
    """`none`, or what to do to keep the user."""
    propensity: Probability
    """Probability with which the action was drawn."""
    probabilities: dict[str, Probability]
    """Of every action that was feasible."""
    holdout: bool
    """The user belongs to the group that never gets an action."""
    epoch: int
    """Number of the decision period on the user's own calendar."""
    epoch_start: int
    """Its first moment, UTC microseconds; the decision is based on the user as of then."""
    policy: str
    """Version of the policy."""
    cost: float
    """What is set aside for the action, in the recipe's currency."""
    channel: str | None = None
    """How it goes to the user; null for `none`."""
    deliver_from: int | None = None
    """Not to be delivered before this moment, UTC microseconds: quiet hours on the user's own clock end then."""
    price: float = 0.0
    """Price of the budget when it was decided: a unit of it counted for 1 + price."""
    reason: str
    """In words, in short."""
    masked: dict[str, str] | None = None
    """With `explain`: action → the rule that ruled it out."""
    expected: dict[str, ExpectedUplift] | None = None
    """With `explain`: action → what it was expected to gain, for the actions that were left."""
    explanation: list[str] | None = None
    """With `explain`: how it came about, sentence by sentence."""
