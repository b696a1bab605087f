"""The choices of `model.interactions`: what each computes, that all of it learns, and what it can learn.

Shape letters: as in network.py.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from small_shop import SmallShop, make_shop, small_recipe
from torch import Tensor, nn

from clm_ray.config.model import ModelConfig
from clm_ray.model.interactions import CROSSES, DCN, FM, Fields, NeuMF, Shape
from clm_ray.model.network import Network, Sizes

ALL = ("attention", *CROSSES)
SHAPE = Shape(width=8, features=3, hidden=16, dropout=0.0, cross_layers=2)


@pytest.fixture(scope="module")
def shop() -> SmallShop:
    return make_shop()


def _wave(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).float().mul(0.7).sin().view(shape)


def _fields(rows: int, *, seed: int = 0) -> Fields:
    """Plus and minus one at random."""
    random = torch.Generator().manual_seed(seed)

    def sign(width: int) -> Tensor:
        return torch.randint(0, 2, (1, rows, width), generator=random).float() * 2 - 1

    vectors = [sign(SHAPE.width) for _ in range(4)]
    return Fields(*vectors, sign(1), sign(SHAPE.features))


def test_the_default_has_the_logits_it_had_before_there_was_a_choice() -> None:
    """Figures of the code as it was then: same seed, same parameters, same sum."""
    torch.manual_seed(3)
    shapes = {"width": 8, "layers": 1, "heads": 2, "hidden": 6, "reach": 4, "text_width": 5, "id_slots": 7}
    counts = {"categories": 3, "event_types": 2, "token_values": 4, "user_categories": 2, "user_numbers": 1}
    sizes = Sizes(**shapes, **counts, click_features=3, retention_features=2, bins=2)
    alone = ModelConfig(width=8, heads=2, hidden=6, retention_state=True, retention_members=1)
    network = Network(sizes, alone).eval()
    pos = torch.tensor([[0, 3, 5], [2, 2, 4]])
    with torch.no_grad():
        logit = network.click_logits(_wave(2, 6, 8), _wave(2, 3, 8).cos(), pos, _wave(2, 3, 8).exp(), _wave(2, 3, 3))
    before = [[0.31536317, 0.14958908, -0.60064423], [0.25596371, 0.13106281, -0.47105187]]
    torch.testing.assert_close(logit, torch.tensor(before), atol=1e-5, rtol=0)


@pytest.mark.parametrize("interactions", [*((name,) for name in ALL), ALL])
def test_every_choice_gives_logits_and_all_of_it_learns(shop: SmallShop, interactions: tuple[str, ...]) -> None:
    shop = shop.with_recipe(small_recipe(model={"interactions": interactions}))
    model = shop.model()
    batch = shop.maker().make(shop.batch_windows(), rank=0, world=1, step=0, epoch=0, train=True)
    logit = model.click_logits(batch, *model.encode(batch))
    assert logit.shape == batch.click.label_BQ.shape
    assert logit.dtype == torch.float32
    assert logit.std() > 0.1
    model(batch)[0].backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert still == []


def test_the_logit_is_the_sum_of_the_choices(shop: SmallShop) -> None:
    model = shop.with_recipe(small_recipe(model={"interactions": ALL})).model()
    batch = shop.maker().make(shop.batch_windows(0, 3), rank=0, world=1, step=0, epoch=0, train=True)

    def logits(network: Network) -> Tensor:
        model.network = network
        with torch.no_grad():
            return model.click_logits(batch, *model.encode(batch))

    whole = model.network
    together, alone = logits(whole), []
    for name in ALL:
        config = small_recipe(model={"interactions": [name]}).model
        network = Network(whole.sizes, config).eval()
        missing, _ = network.load_state_dict(whole.state_dict(), strict=False)
        assert not missing
        alone.append(logits(network))
    with torch.no_grad():
        features = whole.click_linear(batch.click.dense_BQS).squeeze(-1)
    torch.testing.assert_close(torch.stack(alone).sum(0) - (len(ALL) - 1) * features, together, atol=1e-4, rtol=1e-4)


def test_heads_of_every_choice_compute_in_float32_within_autocast(shop: SmallShop) -> None:
    network = shop.with_recipe(small_recipe(model={"interactions": list(CROSSES)})).model().network
    network.interaction = None  # runs in bf16, and only the rest is compared
    d, s = network.sizes.width, network.sizes.click_features
    given = (_wave(1, 4, d), _wave(1, 5, d).cos(), torch.zeros(1, 5, dtype=torch.int64), _wave(1, 5, d), _wave(1, 5, s))
    with torch.no_grad():
        exact = network.click_logits(*given)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(network.click_logits(*given), exact)


def test_a_factorisation_machine_is_the_sum_over_all_pairs() -> None:
    machine, fields = FM(SHAPE), _fields(5)
    nn.init.normal_(machine.factors.features)
    with torch.no_grad():
        factors = [p(v) for p, v in zip(machine.factors.vectors, fields.vectors(), strict=True)]
        factors += [fields.dense_BQS[..., [s]] * machine.factors.features[s] for s in range(SHAPE.features)]
        pairs = [(f * g).sum(-1) for f, g in itertools.combinations(factors, 2)]
        expected = machine.first(torch.cat(fields.vectors(), -1)).squeeze(-1) + torch.stack(pairs).sum(0)
        torch.testing.assert_close(machine(fields).squeeze(-1), expected, atol=1e-5, rtol=1e-5)


def test_cross_layers_are_polynomials_of_their_order() -> None:
    """Without bias, on inputs t times as large, a cross network of L layers is a polynomial in t without a constant, of order L + 1."""
    fields = _fields(1)
    for layers in (1, 3):
        network = DCN(replace(SHAPE, cross_layers=layers)).double()
        for part in (*network.cross, network.out):
            nn.init.zeros_(part.bias)

        def at(t: float, network: DCN = network) -> float:
            grown = [t * getattr(fields, n).double() for n in Fields.__dataclass_fields__]
            with torch.no_grad():
                return float(network(Fields(*grown)))

        first = torch.cat([*fields.vectors(), fields.dense_BQS], dim=-1).double()
        assert at(1e-8) / 1e-8 == pytest.approx(float(network.out(first).detach()), rel=1e-5)
        values = torch.tensor([at(t) for t in range(layers + 4)], dtype=torch.float64)
        assert values[0] == 0
        assert float(values.diff(n=layers + 2).abs().max()) < 1e-9 < 1e-6 < float(values.diff(n=layers + 1).abs().max())


def test_deep_collaborative_filtering_reads_user_and_item_only() -> None:
    model, fields, others = NeuMF(SHAPE), _fields(4), _fields(4, seed=1)
    with torch.no_grad():
        same = replace(others, user_BQD=fields.user_BQD, item_BQD=fields.item_BQD)
        assert torch.equal(model(same), model(fields))
        assert not torch.allclose(model(others), model(fields))


def _accuracy(name: str, first: str, second: str) -> float:
    """After learning the exclusive or of one entry of each of two fields."""

    def rows(seed: int) -> tuple[Fields, Tensor]:
        fields = _fields(256, seed=seed)
        signs = getattr(fields, first)[..., 0] * getattr(fields, second)[..., 1]
        return fields, (signs > 0).float()

    torch.manual_seed(0)
    model = CROSSES[name](SHAPE)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(200):
        fields, label = rows(1 + step)
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(fields).squeeze(-1), label).backward()
        optimizer.step()
    fields, label = rows(0)
    with torch.no_grad():
        return float(((model(fields).squeeze(-1) > 0) == (label > 0)).float().mean())


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        *((name, "user_BQD", "item_BQD") for name in ("fm", "nfm", "neumf", "dcn")),
        *((name, "dense_BQS", "dense_BQS") for name in ("fm", "nfm", "dcn")),
        *((name, "attended_BQD", "dense_BQS") for name in ("fm", "nfm", "dcn")),
    ],
)
def test_crosses_learn_what_no_single_field_tells(name: str, first: str, second: str) -> None:
    assert _accuracy(name, first, second) > 0.95


@pytest.mark.parametrize(
    ("name", "first", "second"), [("linear", "user_BQD", "item_BQD"), ("neumf", "attended_BQD", "dense_BQS")]
)
def test_what_does_not_read_or_multiply_both_fields_does_not(name: str, first: str, second: str) -> None:
    assert _accuracy(name, first, second) < 0.6


@pytest.mark.parametrize("interactions", [[], ["fm", "fm"], ["forest"]])
def test_choices_that_make_no_sense_are_refused(interactions: list[str]) -> None:
    with pytest.raises(ValidationError):
        ModelConfig(interactions=interactions)  # type: ignore[arg-type]
