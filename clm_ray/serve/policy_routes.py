"""The HTTP routes of the running policy. All of them but a user's own consents ask for the admin token."""

from __future__ import annotations

from fastapi import FastAPI, Response

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
)
from clm_ray.serve.policy_desk import PolicyDesk
from clm_ray.serve.routes import Admin, AdminToken, json_of

_TAG = "policy"


def add_policy_routes(app: FastAPI, desk: PolicyDesk, *, admin: Admin) -> None:
    """/v1/policy, /v1/approvals, and consent by channel."""

    @app.get("/v1/policy", response_model=PolicyState, summary="What holds now, beside the release", tags=[_TAG])
    async def state(x_admin_token: AdminToken = None) -> Response:
        admin.require(x_admin_token, field="policy", what="see what holds now")
        return json_of(await desk.state())

    @app.put(
        "/v1/policy/kill-switch",
        response_model=PolicyState,
        summary="Stop every action, or let them go on",
        tags=[_TAG],
    )
    async def kill(asked: KillSwitch, x_admin_token: AdminToken = None) -> Response:
        admin.require(x_admin_token, field="kill-switch", what="stop every action")
        return json_of(await desk.kill(asked))

    @app.post(
        "/v1/policy/release-guardrail",
        response_model=PolicyState,
        summary="Release what a guardrail stopped",
        tags=[_TAG],
    )
    async def release_guardrail(asked: ReleaseGuardrail, x_admin_token: AdminToken = None) -> Response:
        admin.require(x_admin_token, field="key", what="release what a guardrail stopped")
        return json_of(await desk.release_guardrail(asked))

    @app.get("/v1/approvals", response_model=Approvals, summary="What was asked, the latest first", tags=[_TAG])
    async def approvals(x_admin_token: AdminToken = None) -> Response:
        admin.require(x_admin_token, field="approvals", what="see approvals")
        return json_of(await desk.approvals())

    @app.post("/v1/approvals", response_model=ApprovalState, summary="Ask for an approval", tags=[_TAG])
    async def request(asked: ApprovalRequest, x_admin_token: AdminToken = None) -> Response:
        admin.require(x_admin_token, field="approvals", what="ask for an approval")
        return json_of(await desk.request(asked))

    @app.post(
        "/v1/approvals/{approval_id}", response_model=ApprovalState, summary="Approve, refuse or revoke", tags=[_TAG]
    )
    async def resolve(approval_id: str, answer: ApprovalAnswer, x_admin_token: AdminToken = None) -> Response:
        admin.require(x_admin_token, field="approval_id", what="approve")
        return json_of(await desk.resolve(approval_id, answer))

    @app.put(
        "/v1/users/{user_id:path}/channels",
        response_model=ChannelConsentsAnswer,
        summary="What a user said of being contacted by single channels",
        tags=["users"],
    )
    async def channels(user_id: str, asked: ChannelConsents) -> Response:
        return json_of(await desk.consent(user_id, asked))
