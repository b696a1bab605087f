"""What a position sees: the last `reach` events and the start token, wherever the window was cut and however it is padded."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from small_shop import make_shop
from torch import Tensor

from clm_ray.model.inputs import user_inputs
from clm_ray.model.network import Network

REACH = 6  # max_context of the small shop
TOKENS = 12
POSITIONS = torch.arange(TOKENS)[None]


@pytest.fixture(scope="module", params=[1, 2, 3])
def network(request: pytest.FixtureRequest) -> Network:
    """Of one layer and of several: what they see together is the same."""
    recipe = make_shop().recipe
    model = recipe.model.model_copy(update={"layers": request.param})
    return make_shop(recipe=recipe.model_copy(update={"model": model})).model().network


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _sees() -> Tensor:
    """[P, T]: position p sees the start token and tokens p - REACH < n ≤ p."""
    p, n = torch.arange(TOKENS)[:, None], torch.arange(TOKENS)[None, :]
    return (n == 0) | ((n <= p) & (n > p - REACH))


def _influence(answer: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """[P, T]: does the answer at position p change when token n does?"""
    plain = answer(tokens)
    columns = []
    for n in range(TOKENS):
        changed = tokens.clone()
        changed[0, n] += 10 * _random(tokens.shape[2], seed=100 + n)
        columns.append((answer(changed) != plain)[0].any(-1))
    return torch.stack(columns, dim=1)


def test_a_user_state_sees_exactly_the_last_events_and_the_start_token(network: Network) -> None:
    tokens = _random(1, TOKENS, 8, seed=1)
    with torch.no_grad():
        assert torch.equal(_influence(network.user_states, tokens), _sees())


def test_a_target_attends_to_exactly_the_last_events_and_the_start_token(network: Network) -> None:
    tokens, states, targets = (_random(1, TOKENS, 8, seed=s) for s in (1, 2, 3))
    dense = _random(1, TOKENS, network.sizes.click_features, seed=4)

    def answer(changed: Tensor) -> Tensor:
        return network.click_logits(changed, states, POSITIONS, targets, dense)[..., None]

    with torch.no_grad():
        assert torch.equal(_influence(answer, tokens), _sees())


def test_what_a_position_sees_does_not_depend_on_where_the_window_begins(network: Network) -> None:
    network, tokens = copy.deepcopy(network).double(), _random(1, TOKENS, 8, seed=1).double()
    cut = torch.cat([tokens[:, :1], tokens[:, 4:]], dim=1)  # events 1 to 3 are left out
    first = 3 + REACH
    with torch.no_grad():
        whole, shorter = network.user_states(tokens), network.user_states(cut)
    torch.testing.assert_close(shorter[:, first - 3 :], whole[:, first:], atol=1e-12, rtol=0)
    assert (shorter[:, first - 4] - whole[:, first - 1]).abs().max() > 1e-9


def test_nearer_events_weigh_more(network: Network) -> None:
    bias = network.interaction.bias(torch.tensor([[TOKENS - 1]]), TOKENS)[0, :, 0]
    seen = bias[:, -REACH:]
    assert (seen.diff(dim=-1) > 0).all()
    assert (bias[:, 0] == 0).all()


def test_padding_changes_nothing(network: Network) -> None:
    shop = make_shop()
    item_UD = _random(5, 8, seed=1)
    rng = np.random.default_rng(0)

    def inputs(lengths: list[int]) -> Tensor:
        users = user_inputs(
            items=[np.arange(n) % 5 for n in lengths],
            events=[np.arange(n) % 3 for n in lengths],
            values=[np.tile(np.float32([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), (n, 1)) for n in lengths],
            columns=[({"town": "x"}, {"age": 33.0})] * len(lengths),
            table=shop.users,
        )
        return network.tokens(item_UD, users)

    with torch.no_grad():
        short, padded = inputs([3]), inputs([3, 9])
        assert padded.shape[1] == 10
        torch.testing.assert_close(padded[:1, :4], short)
        torch.testing.assert_close(network.user_states(padded)[:1, :4], network.user_states(short), atol=1e-6, rtol=0)
        pos = torch.tensor([[0, 1, 3]])
        state = network.user_states(short)[:, [0, 1, 3]]
        dense = torch.from_numpy(rng.normal(size=(1, 3, network.sizes.click_features)).astype(np.float32))
        alone, beside = (
            network.click_logits(tokens[:1], state, pos, item_UD[None, :3], dense) for tokens in (short, padded)
        )
        torch.testing.assert_close(alone, beside, atol=1e-6, rtol=0)
