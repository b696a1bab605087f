"""The moving average of trained weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clm_ray.train.averaging import Average, decay_at


def test_a_short_run_forgets_its_initial_weights() -> None:
    assert [decay_at(step, 0.999) for step in (0, 8, 989)] == pytest.approx([0.1, 0.5, 990 / 999])
    assert decay_at(10**6, 0.999) == 0.999


def test_the_average_is_applied_for_a_while_and_frozen_weights_have_none() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].requires_grad_(False)
    average = Average(model, 0.5, rank=0)
    initial = model[0].weight.detach().clone()
    values = [initial]
    for step in range(12):
        with torch.no_grad():
            model[0].weight.add_(step + 1.0)
        values.append(model[0].weight.detach().clone())
        average.update(step)
    expected = initial
    for step, value in enumerate(values[1:]):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        torch.testing.assert_close(model[0].weight, expected)
    assert torch.equal(model[0].weight, values[-1])
    assert set(average.state()) == {"0.weight", "0.bias"}
    other = Average(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), 0.5, rank=0)
    other.load({**average.state(), "1.weight": torch.zeros(2, 2), "1.bias": torch.zeros(2)})
    torch.testing.assert_close(other.state()["0.weight"], expected)
