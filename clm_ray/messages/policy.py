"""What administrators ask of the running policy, and what they are told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from clm_ray.messages import Answer, Ask, Name, Time

MAX_NOTE = 1000
"""Longest reason."""


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("must say something")
    return text


Who = Name
Reason = Annotated[str, Field(min_length=1, max_length=MAX_NOTE), AfterValidator(_said)]
ApprovalKind = Literal["new_action", "cap_increase", "group_gap"]
Key = Annotated[str, Field(pattern=r"^guardrail:[a-z0-9_]+:(\*|[a-z][a-z0-9_]*)$", max_length=200)]


class KillSwitch(Ask):
    """Stop every action, or let them go on; counts from the next request."""

    on: bool
    """true stops everything."""
    by: Who
    """Who says so; the audit log keeps it."""
    reason: Reason
    """Why; explanations and the audit log show it."""


class ReleaseGuardrail(Ask):
    """Release what a guardrail stopped."""

    key: Key
    """`guardrail:NAME:ACTION`, as /v1/policy lists it."""
    by: Who
    reason: Reason


class ApprovalRequest(Ask):
    """Ask for something that needs a person's yes."""

    kind: ApprovalKind
    subject: Name
    """new_action: the action. cap_increase: `budget=AMOUNT`, or `caps.NAME=DIGEST` as the policy asks for it. group_gap: `column=NAME`."""
    by: Who
    reason: Reason


class ApprovalAnswer(Ask):
    """Say yes for a time, no, or not any more."""

    status: Literal["approved", "refused", "revoked"]
    expires_at: Time | None = None
    """approved: until when; needed, and in the future."""
    by: Who
    reason: Reason


class ApprovalState(Answer):
    """One question and what became of it."""

    approval_id: str
    kind: str
    subject: str
    reason: str
    requested_at: int
    requested_by: str
    status: Literal["pending", "approved", "refused", "revoked", "expired"]
    """expired: it was approved, and its time is over."""
    decided_at: int | None = None
    decided_by: str | None = None
    expires_at: int | None = None
    note: str = ""
    """What whoever decided said."""


class Approvals(Answer):
    """The latest asked first."""

    approvals: list[ApprovalState]


class StopState(Answer):
    """Something that a guardrail stopped."""

    key: str
    reason: str
    since: int


class PolicyState(Answer):
    """What holds now, beside the release."""

    time: int
    policy: str
    """Version of the served policy."""
    killed: str | None
    """Why every action is stopped; null where it is not."""
    stops: list[StopState]
    price: float
    """Of a unit of budget, beyond the unit itself."""
    budget: float
    """What the recipe allows, in its currency; a baseline may hold it lower."""
    reserved: float
    spent: float
    pending: int
    """Approvals that wait for an answer."""


class ChannelConsents(Ask):
    """What a user said of being contacted by single channels; goes before everything else that is known of these channels."""

    channels: Annotated[dict[Name, bool], Field(max_length=32)]
    """Channel → yes or no; channels that are not named stay as they are known otherwise."""


class ChannelConsentsAnswer(Answer):
    """What is now known of the user's channels."""

    user_id: str
    channels: dict[str, bool]
