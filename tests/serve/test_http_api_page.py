"""The examples of docs/http-api.md are requests that the endpoint understands, and its tables name what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

from clm_ray.messages import Degraded, Event, EventsRequest, RecommendRequest
from clm_ray.messages.policy import KillSwitch

PAGE = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")


def bodies(path: str) -> list[object]:
    found = re.findall(rf"curl [^\n]*{path} [^\n]*-d '\n(.*?)'\n```", PAGE, flags=re.DOTALL)
    return [json.loads(body) for body in found]


def test_the_recommend_examples_are_requests() -> None:
    for body in bodies("/v1/recommend"):
        RecommendRequest.model_validate(body)


def test_the_events_example_is_a_batch_of_events() -> None:
    (body,) = bodies("/v1/events")
    for event in EventsRequest.model_validate(body).events:
        Event.model_validate(event)


def test_the_kill_switch_example_is_one() -> None:
    (body,) = bodies("/v1/policy/kill-switch")
    KillSwitch.model_validate(body)


def test_every_way_of_degrading_and_every_request_field_is_explained() -> None:
    for name in (*get_args(Degraded), *RecommendRequest.model_fields):
        assert f"`{name}`" in PAGE, name
