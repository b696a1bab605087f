"""Explanations are exact: an event's contribution is what rescoring without it says, tokens add up to the logit."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from small_shop import LOOKS, SmallShop, make_shop
from tiny_bert import LAYERS, write_tiny_bert

from clm_ray.config.model import EncoderConfig
from clm_ray.errors import ConfigError, RequestError
from clm_ray.features.history import EMPTY, History
from clm_ray.model.calibration import Calibration
from clm_ray.model.explain import TextModel, explain_events, explain_text, whole
from clm_ray.model.inference import Scorer, UserRequest
from clm_ray.model.recommender import Recommender
from clm_ray.model.text import TextTower, load_pretrained, tokenize

ITEM = 7


@dataclass(frozen=True)
class World:
    """A shop, its model with a text tower, and both sides opened."""

    shop: SmallShop
    model: Recommender
    scorer: Scorer
    text: TextModel


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> EncoderConfig:
    return EncoderConfig(name=str(write_tiny_bert(tmp_path_factory.mktemp("bert"), LOOKS)), max_tokens=8)


def _tower(bert: EncoderConfig, trained_layers: int = 1) -> TextTower:
    return TextTower(load_pretrained(bert)[0], trained_layers=trained_layers, pooling="mean").eval()


@pytest.fixture(scope="module")
def world(bert: EncoderConfig) -> World:
    shop = make_shop()
    model = shop.model(_tower(bert))
    tokens = tokenize(shop.items.texts, load_pretrained(bert)[1], max_tokens=8)
    rows = np.arange(len(shop.items.catalogue))
    with torch.no_grad():
        assert model.tower is not None
        vectors = model.network.item_vectors(
            model.tower(*tokens.padded(np.arange(len(tokens)))), shop.items.inputs(rows, shop.items.text_I)
        )
    scorer = Scorer(
        recipe=shop.recipe,
        network=model.network,
        item_ID=vectors.numpy(),
        source=shop.source,
        spec=shop.spec,
        users=shop.users,
        columns=shop.columns,
        calibration=Calibration("platt", 0.8, -0.3, rows=100),
    )
    return World(shop, model, scorer, TextModel(whole(_tower(bert)), load_pretrained(bert)[1], shop.items, 8))


def _request(world: World, user: str = "u1") -> UserRequest:
    return UserRequest(user, world.shop.histories[user], world.shop.train_end)


def _cut_out(history: History, place: int) -> History:
    columns = (history.item_N, history.event_N, history.value_N, history.time_N)
    return History(*(np.delete(column, place) for column in columns))  # type: ignore[arg-type]


def _score(world: World, request: UserRequest) -> tuple[float, float]:
    """(probability, its logit by hand)."""
    (found,) = world.scorer.click(world.scorer.states([request]), [np.array([ITEM], np.int32)])
    return float(found[0]), float(np.log(found[0]) - np.log1p(-found[0]))


@pytest.mark.parametrize("user", ["u0", "u1", "u2", "u3"])
def test_a_contribution_is_what_rescoring_without_the_event_says(world: World, user: str) -> None:
    request = _request(world, user)
    told = explain_events(world.scorer, request, item=ITEM)
    probability, logit = _score(world, request)
    assert (told.probability, told.logit) == pytest.approx((probability, logit), abs=1e-5)
    assert told.events
    for event in told.events:
        without = replace(request, history=_cut_out(request.history, event.place))
        less_probability, less_logit = _score(world, without)
        assert event.probability == pytest.approx(probability - less_probability, abs=1e-5)
        assert event.logit == pytest.approx(logit - less_logit, abs=1e-5)
    assert max(abs(event.logit) for event in told.events) > 1e-2


def test_the_events_are_those_that_the_user_tower_sees(world: World) -> None:
    request = _request(world)
    history, vocabulary = request.history, world.scorer.vocabulary
    told = explain_events(world.scorer, request, item=ITEM)
    context = [n for n in range(len(history)) if history.time_N[n] < request.time and vocabulary.is_context(history)[n]]
    assert [event.place for event in told.events] == context[-world.shop.recipe.sequences.max_context :]
    assert len(context) > world.shop.recipe.sequences.max_context
    for event in told.events:
        assert event.item_id == world.scorer.items.ids[history.item_N[event.place]]
        assert vocabulary.index[event.event_type] == history.event_N[event.place]
        assert event.time == history.time_N[event.place] < request.time


def test_events_of_other_kinds_do_not_hide_those_that_the_user_tower_sees(world: World) -> None:
    """However many visits came since: the tower looks at context events alone."""
    request = _request(world)
    features = world.scorer.recipe.features.model_copy(update={"max_history": 7})
    scorer = copy.copy(world.scorer)
    scorer.recipe = scorer.recipe.model_copy(update={"features": features})
    visit = np.int16(scorer.vocabulary.index["visit"])
    past = request.history.before(request.time)
    since = np.linspace(past.time_N[-1] + 1, request.time - 1, 40).astype(np.int64)
    history = History(
        np.concatenate([past.item_N, np.zeros(40, np.int32)]),
        np.concatenate([past.event_N, np.full(40, visit)]),
        np.concatenate([past.value_N, np.full(40, np.nan, np.float32)]),
        np.concatenate([past.time_N, since]),
    )
    told = explain_events(scorer, replace(request, history=history), item=ITEM)
    assert [e.place for e in told.events] == [e.place for e in explain_events(scorer, request, item=ITEM).events]
    assert max(abs(event.logit) for event in told.events) > 1e-2


def test_slates_that_were_shown_have_no_part_in_it(world: World) -> None:
    request = _request(world)
    plain = explain_events(world.scorer, request, item=ITEM)
    shown = np.int16(world.scorer.vocabulary.index["impression"])
    first = request.history.time_N[0]
    slate = History(
        np.concatenate([[np.int32(3)] * 2, request.history.item_N]).astype(np.int32),
        np.concatenate([[shown] * 2, request.history.event_N]).astype(np.int16),
        np.concatenate([[np.nan] * 2, request.history.value_N]).astype(np.float32),
        np.concatenate([[first - 2, first - 1], request.history.time_N]),
    )
    told = explain_events(world.scorer, replace(request, history=slate), item=ITEM)
    assert [event.place - 2 for event in told.events] == [event.place for event in plain.events]
    assert [e.logit for e in told.events] == pytest.approx([e.logit for e in plain.events], abs=1e-5)


def test_a_user_without_a_history_has_a_score_and_no_events(world: World) -> None:
    told = explain_events(world.scorer, UserRequest("stranger", EMPTY, world.shop.train_end), item=ITEM)
    assert told.events == ()
    assert 0 < told.probability < 1


@pytest.mark.parametrize("item", [0, -1, 25])
def test_an_item_that_is_not_there_is_refused(world: World, item: int) -> None:
    for ask in (
        lambda: explain_events(world.scorer, _request(world), item=item),
        lambda: explain_text(world.scorer, world.text, _request(world), item=item),
    ):
        with pytest.raises(RequestError, match="catalogue") as caught:
            ask()
        assert caught.value.value == item


def test_a_missing_package_is_told_with_the_way_to_get_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ConfigError, match=r"clm-ray\[explain\]"):
        explain_text(world.scorer, world.text, _request(world), item=ITEM)


@pytest.mark.parametrize("user", ["u1", "u2"])
def test_tokens_add_up_to_the_logit_less_that_of_the_masked_text(world: World, user: str) -> None:
    request = _request(world, user)
    told = explain_text(world.scorer, world.text, request, item=ITEM)
    assert told.logit == pytest.approx(_score(world, request)[1], abs=1e-4), "the text gives the served item vector"
    assert told.text == world.scorer.items.texts[ITEM]
    assert sum(token.logit for token in told.tokens) == pytest.approx(told.logit - told.baseline, abs=2e-5)
    assert told.error == pytest.approx(sum(t.logit for t in told.tokens) - (told.logit - told.baseline), abs=1e-6)
    assert abs(told.logit - told.baseline) > 1e-3, "a baseline that scores alike would prove nothing"
    rough = explain_text(world.scorer, world.text, request, item=ITEM, steps=2)
    assert abs(rough.error) > abs(told.error)


def test_the_baseline_is_the_text_with_masked_words(world: World) -> None:
    told = explain_text(world.scorer, world.text, _request(world), item=ITEM)
    words = told.text.split()
    assert [token.token for token in told.tokens] == ["[CLS]", *words, "[SEP]"]
    assert [token.special for token in told.tokens] == [True, *[False] * len(words), True]
    assert [told.tokens[0].logit, told.tokens[-1].logit] == [0.0, 0.0]
    masked = replace(world.text.items, texts=(*[" ".join(["[MASK]"] * len(words))] * len(world.text.items.texts),))
    again = explain_text(world.scorer, replace(world.text, items=masked), _request(world), item=ITEM)
    assert again.logit == pytest.approx(told.baseline, abs=1e-6)


@pytest.mark.parametrize("trained_layers", [0, 1, LAYERS])
def test_a_tower_in_one_piece_gives_the_same_vectors(bert: EncoderConfig, trained_layers: int) -> None:
    tokens = tokenize(["red old", "large", "old old red 7"], load_pretrained(bert)[1], max_tokens=8)
    ids, mask = tokens.padded(np.arange(3))
    with torch.no_grad():
        cut, one = _tower(bert, trained_layers), whole(_tower(bert, trained_layers))
        torch.testing.assert_close(one(ids, mask), cut(ids, mask))
        assert len(one.upper) == LAYERS
        embedded = load_pretrained(bert)[0].eval().embeddings(input_ids=ids)
        torch.testing.assert_close(one.lower_states(ids, mask), embedded)
