"""Rules about items hold for every slate: ranked, retrieved, popular, and where nobody knows the stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from serve_fakes import NOW, Parts

from clm_ray.config.policy import PolicyConfig
from clm_ray.features.catalogue import Catalogue
from clm_ray.serve.args import CoalesceArgs, TimeoutArgs
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.http import build_http
from clm_ray.serve.item_rules import ItemRules
from clm_ray.store.clock import Clock
from clm_ray.store.store import Store

MINORS: dict[str, Any] = {
    "name": "minors",
    "kind": "legal",
    "reason": "the law",
    "when": {"column": "age", "below": 18, "if_missing": True},
    "exclude_items": {"flags": ["alcohol"]},
}
FRUIT: dict[str, Any] = {
    "name": "fruit_only",
    "kind": "ethical",
    "reason": "asked for",
    "when": {"all_of": [{"stage": ["established"]}, {"column": "diet", "one_of": ["fruit"]}]},
    "require_items": {"categories": ["fruit"]},
}
POLICY = PolicyConfig.model_validate({"rules": [MINORS, FRUIT]})
FLAGS = tuple(frozenset({"alcohol"} if row in (1, 9) else ()) for row in range(10))
COLUMNS: dict[str, dict[str, str | float]] = {"adult": {"age": 40.0}, "vegan": {"age": 40.0, "diet": "fruit"}}


@pytest.fixture
def ruled(served: ServedCatalogue) -> ServedCatalogue:
    return replace(served, item_rules=ItemRules(POLICY, FLAGS, COLUMNS))


@pytest.fixture
def shop(ruled: ServedCatalogue, store: Store, parts: Parts) -> Iterator[TestClient]:
    gateway = Gateway(
        served=ruled,
        store=store,
        clock=Clock(kind="wall", wall=lambda: NOW),
        hops=parts.hops(),
        coalesce=CoalesceArgs(),
        timeouts=TimeoutArgs(profiler_s=0.3, ranker_s=0.3, retention_s=0.3, store_s=5.0),
    )
    with TestClient(build_http(gateway, admin_token=None)) as client:
        yield client


def ask(shop: TestClient, user: str, **more: object) -> dict[str, Any]:
    answer: dict[str, Any] = shop.post("/v1/recommend", json={"user_id": user, "k": 9, "explain": True, **more}).json()
    return {**answer, "shown": {item["item_id"] for item in answer["items"]}}


CANDIDATES = ["i1", "i2", "i3", "i4", "i9"]


def test_given_candidates_are_filtered_by_what_holds_for_the_user(shop: TestClient) -> None:
    assert ask(shop, "adult", candidates=CANDIDATES)["shown"] == set(CANDIDATES)
    assert "item_rules" not in ask(shop, "adult", candidates=CANDIDATES)
    stranger = ask(shop, "nobody", candidates=CANDIDATES)
    assert (stranger["shown"], stranger["item_rules"]) == ({"i2", "i3", "i4"}, ["minors"])
    assert ask(shop, "vegan", candidates=CANDIDATES)["shown"] == {"i1", "i3", "i9"}
    assert ask(shop, "nobody", candidates=["i1", "i9"])["items"] == []


def test_what_is_retrieved_is_told_to_the_ranker(shop: TestClient, parts: Parts) -> None:
    ask(shop, "nobody")
    ask(shop, "adult")
    assert [[row_F.tolist() for row_F in batch.forbidden] for batch in parts.rank_batches] == [[[1, 9]], []]


def test_popular_slates_obey_too(shop: TestClient, parts: Parts) -> None:
    parts.trouble["ranker"] = RuntimeError("gone")
    assert ask(shop, "nobody")["shown"] == {f"i{n}" for n in range(2, 9)}
    parts.newcomers.add("nobody")
    assert ask(shop, "nobody")["shown"] == {f"i{n}" for n in range(2, 9)}


def test_without_a_profile_every_stages_rules_hold(shop: TestClient, parts: Parts) -> None:
    parts.trouble["profiler"] = RuntimeError("gone")
    assert ask(shop, "vegan")["shown"] == {"i1", "i3", "i5", "i7", "i9"}
    assert ask(shop, "adult")["shown"] == {f"i{n}" for n in range(1, 10)}


def test_an_item_without_known_flags_counts_as_flagged(ruled: ServedCatalogue) -> None:
    rules = ruled.item_rules
    assert rules is not None
    more = Catalogue.build(
        [*ruled.catalogue.ids, "new"], [*ruled.catalogue.texts, "new"], [["fruit"] if n % 2 else [] for n in range(11)]
    )
    assert rules.forbidden("nobody", stage="new", catalogue=more).row_F.tolist() == [1, 9, 10]
    assert rules.forbidden("adult", stage="new", catalogue=more).row_F.tolist() == []
    assert rules.forbidden("nobody", stage="new", catalogue=ruled.catalogue).row_F.tolist() == [1, 9]
    assert np.array_equal(rules.forbidden("vegan", stage="new", catalogue=more).row_F, [])


def test_an_item_that_was_put_follows_the_rules_by_the_flags_it_was_put_with(shop: TestClient) -> None:
    put = [
        {"item_id": "plain"},
        {"item_id": "beer", "flags": ["alcohol"]},
        {"item_id": "i1", "text": "for everybody now"},
    ]
    for verdict in shop.put("/v1/items", json={"items": put}).json()["items"]:
        assert verdict["status"] == "rankable"
    mixed = ["i1", "i9", "plain", "beer"]
    assert ask(shop, "nobody", candidates=mixed)["shown"] == {"i1", "plain"}
    assert ask(shop, "adult", candidates=mixed)["shown"] == set(mixed)


def test_a_rule_about_items_cannot_ask_behaviour() -> None:
    wrong = {**MINORS, "when": {"any_of": [{"feature": "value", "below": 3}]}}
    with pytest.raises(ValidationError, match="no feature"):
        PolicyConfig.model_validate({"rules": [wrong]})
