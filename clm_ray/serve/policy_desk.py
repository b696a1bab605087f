"""What administrators do with the running policy: look, stop, release, approve. The store is called in threads."""

from __future__ import annotations

import asyncio

from clm_ray.decide import controls
from clm_ray.errors import ClmError, RequestError
from clm_ray.messages.policy import (
    ApprovalAnswer,
    ApprovalRequest,
    Approvals,
    ApprovalState,
    ChannelConsents,
    ChannelConsentsAnswer,
    KillSwitch,
    PolicyState,
    ReleaseGuardrail,
    StopState,
)
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.users import check_user
from clm_ray.store.approvals import Approval, approval_id_of
from clm_ray.store.clock import Clock
from clm_ray.store.contacts import channel_consents, put_channel_consents
from clm_ray.store.ledger import MICROS
from clm_ray.store.store import Store


class PolicyDesk:
    """Belongs to one gateway; what it changes is in the store and counts for every replica."""

    def __init__(self, *, served: ServedCatalogue, store: Store, clock: Clock) -> None:
        self._served = served
        self._store = store
        self._clock = clock

    async def state(self) -> PolicyState:
        """What holds now."""
        return await asyncio.to_thread(self._state)

    async def kill(self, asked: KillSwitch) -> PolicyState:
        """Pull the kill switch, or put it back."""
        await asyncio.to_thread(
            controls.set_kill_switch,
            self._store,
            on=asked.on,
            by=asked.by,
            reason=asked.reason,
            now=self._clock.now_us(),
        )
        return await self.state()

    async def release_guardrail(self, asked: ReleaseGuardrail) -> PolicyState:
        """Raises RequestError where nothing is stopped under this key."""
        freed = await asyncio.to_thread(
            controls.release_guardrail,
            self._store,
            asked.key,
            by=asked.by,
            reason=asked.reason,
            now=self._clock.now_us(),
        )
        if not freed:
            raise RequestError("stops nothing", field="key", value=asked.key, fix="take one of GET /v1/policy")
        return await self.state()

    async def approvals(self) -> Approvals:
        """All of them."""
        now = self._clock.now_us()
        found = await asyncio.to_thread(controls.read_controls, self._store, now=now)
        return Approvals(approvals=[_shown(one, now) for one in found.approvals])

    async def request(self, asked: ApprovalRequest) -> ApprovalState:
        """Ask for something; asked before, what became of it is told."""
        now = self._clock.now_us()
        await asyncio.to_thread(
            controls.request_approvals,
            self._store,
            [(asked.kind, asked.subject)],
            by=asked.by,
            reason=asked.reason,
            now=now,
        )
        found = await self.approvals()
        wanted = approval_id_of(asked.kind, asked.subject)
        return next(one for one in found.approvals if one.approval_id == wanted)

    async def resolve(self, approval_id: str, answer: ApprovalAnswer) -> ApprovalState:
        """Raises RequestError: no such approval, no moment at which it expires, nothing to revoke."""
        if not approval_id.isprintable():  # no store takes every character
            raise RequestError(
                "is no approval's id", field="approval_id", value=approval_id, fix="take one of GET /v1/approvals"
            )
        now = self._clock.now_us()
        try:
            done = await asyncio.to_thread(
                controls.resolve_approval,
                self._store,
                approval_id,
                status=answer.status,
                by=answer.by,
                now=now,
                expires_at=answer.expires_at if answer.status == "approved" else None,
                note=answer.reason,
            )
        except ClmError as error:
            if error.field not in ("approval_id", "expires_at"):
                raise
            raise RequestError(error.problem, field=error.field, value=error.value, fix=error.fix) from error
        return _shown(done, now)

    async def consent(self, user_id: str, asked: ChannelConsents) -> ChannelConsentsAnswer:
        """Keep what a user said of single channels. Raises RequestError for a channel that the policy does not have."""
        known = self._served.known_as(check_user(user_id))
        channels = self._served.recipe.policy.channels
        for name in asked.channels:
            if name not in channels:
                raise RequestError(
                    "is no channel of the policy", field="channels", value=name, fix=f"one of {', '.join(channels)}"
                )
        given = await asyncio.to_thread(self._consent, known, dict(asked.channels))
        return ChannelConsentsAnswer(user_id=user_id, channels=given)

    def _consent(self, user_id: str, given: dict[str, bool]) -> dict[str, bool]:
        with self._store.writing() as connection:
            put_channel_consents(connection, user_id, given, now=self._clock.now_us())
            return channel_consents(connection, [user_id]).get(user_id, {})

    def _state(self) -> PolicyState:
        now = self._clock.now_us()
        found = controls.read_controls(self._store, now=now)
        money = self._store.budget()
        stops = [control for key, control in sorted(found.settings.items()) if key.startswith(controls.GUARDRAIL)]
        return PolicyState(
            time=now,
            policy=self._served.recipe.policy.version,
            killed=found.killed,
            stops=[StopState(key=one.key, reason=one.reason, since=one.changed_at) for one in stops],
            price=found.price,
            budget=self._served.recipe.policy.budget,
            reserved=money.reserved / MICROS,
            spent=money.spent / MICROS,
            pending=sum(one.status == "pending" for one in found.approvals),
        )


def _shown(one: Approval, now: int) -> ApprovalState:
    expired = one.status == "approved" and not one.in_force(now)
    return ApprovalState(
        approval_id=one.approval_id,
        kind=one.kind,
        subject=one.subject,
        reason=one.reason,
        requested_at=one.requested_at,
        requested_by=one.requested_by,
        status="expired" if expired else one.status,
        decided_at=one.decided_at,
        decided_by=one.decided_by,
        expires_at=one.expires_at,
        note=one.note,
    )
