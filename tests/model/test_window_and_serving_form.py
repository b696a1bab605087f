"""Training scores a whole window at once, serving one user at one moment: both must say the same, whatever comes later."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_shop import SmallShop, make_shop, small_recipe

from clm_ray.features.history import EMPTY, History
from clm_ray.model.inference import Scorer, UserRequest
from clm_ray.model.network import survival_from
from clm_ray.model.recommender import Recommender
from clm_ray.schema import TRAIN, VALID


@pytest.fixture(scope="module")
def shop() -> SmallShop:
    return make_shop()


@pytest.fixture(scope="module")
def model(shop: SmallShop) -> Recommender:
    return shop.model()


def _scorer(shop: SmallShop, model: Recommender) -> Scorer:
    rows = np.arange(len(shop.items.catalogue))
    with torch.no_grad():
        vectors = model.network.item_vectors(model.cache_ZH, shop.items.inputs(rows, shop.items.text_I))
    return Scorer(
        recipe=shop.recipe,
        network=model.network,
        item_ID=vectors.numpy(),
        source=shop.source,
        spec=shop.spec,
        users=shop.users,
        columns=shop.columns,
    )


@pytest.mark.parametrize("split", [TRAIN, VALID])
@pytest.mark.parametrize(
    "model_config",
    [{}, {"members": 3}, {"interactions": ("linear", "fm", "nfm", "neumf", "dcn")}],
    ids=["default", "members", "interactions"],
)
def test_click_probabilities_are_the_same(shop: SmallShop, split: int, model_config: dict[str, object]) -> None:
    shop = shop.with_recipe(small_recipe(model=model_config))
    model = shop.model(seed=1)
    windows = shop.batch_windows(split=split)
    batch = shop.maker().make(windows, rank=0, world=1, step=0, epoch=0, train=False)
    with torch.no_grad():
        windowed = torch.sigmoid(model.click_logits(batch, *model.encode(batch))).numpy()
    pairs = [(b, q) for b, target in enumerate(windows.target) for q in range(len(target["item"]))]
    requests = [
        UserRequest(windows.user[b], shop.histories[windows.user[b]], int(windows.target[b]["time"][q]))
        for b, q in pairs
    ]
    scorer = _scorer(shop, model)
    items = [windows.target[b]["item"][q : q + 1] for b, q in pairs]
    served = np.concatenate(scorer.click(scorer.states(requests), items))
    assert len(pairs) > 40
    np.testing.assert_allclose(served, [windowed[b, q] for b, q in pairs], atol=1e-5)
    assert served.std() > 0.05


@pytest.mark.parametrize("retention_state", [False, True])
def test_survival_is_the_same(shop: SmallShop, retention_state: bool) -> None:
    shop = shop.with_recipe(small_recipe(model={"retention_state": retention_state}))
    model = shop.model()
    windows = shop.batch_windows()
    batch = shop.maker().make(windows, rank=0, world=1, step=0, epoch=0, train=False)
    with torch.no_grad():
        _, _, state_BTD = model.encode(batch)
        windowed = survival_from(model.hazard_logits(batch, state_BTD)).numpy()
    pairs = [(b, r) for b, reference in enumerate(windows.reference) for r in range(len(reference["bin"]))]
    scorer = _scorer(shop, model)
    requests = [
        UserRequest(windows.user[b], shop.histories[windows.user[b]], int(windows.reference[b]["time"][r]))
        for b, r in pairs
    ]
    served = scorer.survival(scorer.states(requests), stage_B=np.zeros(len(requests), np.int8))
    assert len(pairs) > 20
    assert served is not None
    np.testing.assert_allclose(served, [windowed[b, r] for b, r in pairs], atol=1e-5)


QUIET = {"purchase": 0.15, "mailing": 0.05, "visit": 0.8}
"""Users who mostly look around: few of their events are in the user tower's context."""


@pytest.mark.parametrize("mean_events", [3, 100])
def test_events_that_the_tower_does_not_see_take_no_places_in_its_context(
    mean_events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What features look at ends after `max_history` events of every kind, of a user's context the last `max_context` count."""
    for module in ("model.inference", "features.tokens", "data.spans"):
        monkeypatch.setattr(f"clm_ray.{module}.USER_MEAN_EVENTS", mean_events)
    shop = make_shop(users=20, recipe=small_recipe(features={"max_history": 7}), kinds=QUIET)
    model = shop.model(seed=1)
    windows = shop.batch_windows()
    batch = shop.maker().make(windows, rank=0, world=1, step=0, epoch=0, train=False)
    with torch.no_grad():
        item_UD, token_BTD, state_BTD = model.encode(batch)
        clicks = torch.sigmoid(model.click_logits(batch, item_UD, token_BTD, state_BTD)).numpy()
        chances = survival_from(model.hazard_logits(batch, state_BTD)).numpy()
    scorer = _scorer(shop, model)

    def requests(asked: list[dict[str, np.ndarray]], pairs: list[tuple[int, int]]) -> list[UserRequest]:
        users = [windows.user[b] for b, _ in pairs]
        times = [int(asked[b]["time"][q]) for b, q in pairs]
        return [UserRequest(u, shop.histories[u], t) for u, t in zip(users, times, strict=True)]

    pairs = [(b, q) for b, target in enumerate(windows.target) for q in range(len(target["item"]))]
    asked = requests(windows.target, pairs)
    states = scorer.states(asked)
    hidden = [sum(shop.source.vocabulary.is_context(state.history)) < len(state.token_TD) - 1 for state in states]
    assert sum(hidden) > 20, "the tower must look further back than features do"
    served = np.concatenate(scorer.click(states, [windows.target[b]["item"][q : q + 1] for b, q in pairs]))
    np.testing.assert_allclose(served, [clicks[b, q] for b, q in pairs], atol=1e-5)
    pairs = [(b, r) for b, reference in enumerate(windows.reference) for r in range(len(reference["bin"]))]
    states = scorer.states(requests(windows.reference, pairs))
    survival = scorer.survival(states, stage_B=np.zeros(len(states), np.int8))
    np.testing.assert_allclose(survival, [chances[b, r] for b, r in pairs], atol=1e-5)


def test_what_happens_at_or_after_the_moment_changes_nothing(shop: SmallShop, model: Recommender) -> None:
    scorer = _scorer(shop, model)
    candidates = np.arange(1, 10, dtype=np.int32)
    for user, history in shop.histories.items():
        time = int(history.time_N[len(history) // 2])
        past = history.before(time)
        later = History(history.item_N[::-1], history.event_N, history.value_N * 7, history.time_N)
        other = History(
            *(
                np.concatenate([getattr(past, n), getattr(later, n)[len(past) :]])
                for n in ("item_N", "event_N", "value_N", "time_N")
            )
        )
        states = scorer.states([UserRequest(user, h, time) for h in (history, past, other)])
        answers = np.array(scorer.click(states, [candidates] * 3))
        np.testing.assert_allclose(answers[1:], answers[[0, 0]], atol=1e-6)


def test_slates_that_were_shown_are_no_events_of_the_user(shop: SmallShop, model: Recommender) -> None:
    """The endpoint learns of them when the next dataset is loaded: until then it must score in the same way."""
    scorer = _scorer(shop, model)
    candidates = np.arange(1, 10, dtype=np.int32)
    history, time = shop.histories["u1"], shop.train_end
    shown = np.sort(np.random.default_rng(0).integers(history.time_N[0], time, 30))
    code = np.int16(shop.source.vocabulary.index["impression"])
    joined = History(
        np.concatenate([history.item_N, np.zeros(30, np.int32)]),
        np.concatenate([history.event_N, np.full(30, code)]),
        np.concatenate([history.value_N, np.full(30, np.nan, np.float32)]),
        np.concatenate([history.time_N, shown]),
    )
    order = np.argsort(joined.time_N, kind="stable")
    joined = History(*(getattr(joined, n)[order] for n in ("item_N", "event_N", "value_N", "time_N")))
    states = scorer.states([UserRequest("u1", h, time) for h in (history, joined)])
    plain, told = scorer.click(states, [candidates] * 2)
    np.testing.assert_allclose(told, plain, atol=1e-6)
    survival = scorer.survival(states, stage_B=np.zeros(len(states), np.int8))
    assert survival is not None
    np.testing.assert_allclose(survival[0], survival[1], atol=1e-6)
    features = [shop.source.retention(h, np.array([time])) for h in (history, joined)]
    np.testing.assert_allclose(features[0], features[1], atol=1e-6)


def test_a_batch_of_users_gets_the_answers_of_each_alone(shop: SmallShop, model: Recommender) -> None:
    scorer = _scorer(shop, model)
    moment = shop.train_end
    requests = [UserRequest(user, history, moment) for user, history in shop.histories.items()]
    requests.insert(1, UserRequest("stranger", EMPTY, moment))
    items = [np.arange(1, 2 + n, dtype=np.int32) for n in range(len(requests))]
    together = scorer.click(scorer.states(requests), items)
    for n, request in enumerate(requests):
        (alone,) = scorer.click(scorer.states([request]), [items[n]])
        np.testing.assert_allclose(together[n], alone, atol=1e-6)


def test_no_candidates_and_no_users_are_answered_with_nothing(shop: SmallShop, model: Recommender) -> None:
    scorer = _scorer(shop, model)
    (none,) = scorer.click(scorer.states([UserRequest("u0", EMPTY, shop.train_end)]), [np.empty(0, np.int32)])
    assert none.shape == (0,)
    survival = scorer.survival([], stage_B=np.empty(0, np.int8))
    assert survival is not None
    assert survival.shape == (0, len(shop.recipe.retention.bin_ends))
    assert scorer.states([]) == scorer.retrieve([], count=3) == []


@pytest.mark.parametrize("repeat", [True, False])
def test_retrieval_takes_the_best_of_the_whole_catalogue(shop: SmallShop, model: Recommender, repeat: bool) -> None:
    recipe = shop.recipe.model_copy(update={"serve": shop.recipe.serve.model_copy(update={"repeat": repeat})})
    scorer = _scorer(shop.with_recipe(recipe), model)
    (state,) = scorer.states([UserRequest("u0", shop.histories["u0"], shop.train_end)])
    (rows,) = scorer.retrieve([state], count=8)
    with torch.no_grad():
        query = model.network.query(torch.from_numpy(state.profile_D)).numpy()
    every = np.arange(1, len(shop.items.catalogue), dtype=np.int32)
    best = every[np.argsort(-(scorer.item_vectors(every) @ query), kind="stable")]
    seen = state.history.item_N[state.history.item_N > 0]
    assert len(rows) == len(set(rows.tolist())) == 8
    if repeat:
        counts = np.bincount(seen, minlength=len(every) + 1)
        assert set(rows[:4].tolist()) <= set(seen.tolist())
        assert (np.diff(counts[rows[:4]]) <= 0).all()
        assert rows[4:].tolist() == [r for r in best if r not in rows[:4]][:4]
    else:
        assert rows.tolist() == [r for r in best if r not in seen][:8]
