from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forecaster.arrays import Floats
from forecaster.components.base import Block, Outputs
from forecaster.components.network.inputs import before_network, input_count
from forecaster.components.network.log_ridge import ALL_EXPERTS
from forecaster.components.network.network import Network
from forecaster.config import NetworkConfig
from forecaster.training.losses import pinball_loss
from tests.fleets import HOUR

INPUTS = input_count(NetworkConfig(lags=(1,)))
LEVELS = (0.025, 0.1, 0.5, 0.8, 0.975)


def network(cell: str = "lstm", **changes: object) -> Network:
    config = {
        "cell": cell,
        "hidden": 6,
        "layers": 2,
        "horizon": 4,
        "quantiles": LEVELS,
        "lags": (1,),
    } | changes
    made = Network(NetworkConfig.model_validate(config))
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(0.0, 0.5, generator=chance)
    return made.eval()


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@given(seed=st.integers(0, 2**31), size=st.sampled_from([0.0, 1.0, 1e3, 1e6]))
def test_quantiles_never_cross(cell: str, seed: int, size: float) -> None:
    made = network(cell)
    x = torch.randn(7, 3, INPUTS, generator=torch.Generator().manual_seed(seed)) * size
    experts = torch.randn(ALL_EXPERTS, 7, 3, 4) * size
    with torch.inference_mode():
        quantiles, _, _ = made(x, *made.initial(3), experts=experts)
    assert quantiles.shape == (len(LEVELS), 7, 3, 4)
    assert torch.isfinite(quantiles).all()
    assert (quantiles.diff(dim=0) >= 0).all()


def test_quantiles_are_apart_where_numbers_are_small() -> None:
    made = network()
    with torch.inference_mode():
        quantiles, _, _ = made(torch.zeros(3, 2, INPUTS), *made.initial(2))
    assert (quantiles.diff(dim=0) > 0).all()


@pytest.mark.parametrize(("cell", "cells"), [("lstm", 2), ("gru", 0), ("rnn", 0)])
def test_the_state_has_a_cell_where_the_cell_has_one(cell: str, cells: int) -> None:
    made = network(cell)
    hidden, memory = made.initial(3)
    assert hidden.shape == (2, 3, 6)
    assert memory.shape == (cells, 3, 6)
    _, hidden, memory = made(torch.zeros(4, 3, INPUTS), hidden, memory)
    assert hidden.shape == (2, 3, 6)
    assert memory.shape == (cells, 3, 6)


def test_every_series_begins_with_the_same_learned_state() -> None:
    hidden, cell = network().initial(3)
    assert (hidden[:, 0] == hidden[:, 2]).all()
    assert (cell[:, 0] == cell[:, 2]).all()
    assert hidden.requires_grad


def test_an_untrained_network_forecasts_little_else_than_its_linear_part() -> None:
    made = Network(NetworkConfig(hidden=16, horizon=24, lags=(1,))).eval()
    experts = torch.zeros(ALL_EXPERTS, 50, 4, 24)
    experts[:2] = 3.0
    with torch.inference_mode():
        middle = made(torch.randn(50, 4, INPUTS), *made.initial(4), experts=experts)[0][1]
    assert ((middle > 1.7) & (middle < 2.3)).all()  # the two ridges have 0.64 of the weight


def test_the_median_is_a_weighted_mean_of_the_experts_and_a_change_of_its_own() -> None:
    made, x = network(), torch.randn(5, 3, INPUTS)
    experts, state = torch.randn(ALL_EXPERTS, 5, 3, 4), made.initial(3)
    with torch.inference_mode():
        alone, one, two = (
            made(x, *state, experts=e)[0] for e in (torch.zeros_like(experts), experts, experts + 2.0)
        )
        bare = made(x, *state)[0]
    torch.testing.assert_close(alone, bare)
    torch.testing.assert_close(two, one + 2.0)  # the weights sum to 1
    low, high = experts.min(dim=0).values, experts.max(dim=0).values
    assert ((one - alone >= low - 1e-5) & (one - alone <= high + 1e-5)).all()


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_some_rows_are_forecast_as_all_of_them_are(cell: str) -> None:
    made, x, experts = network(cell), torch.randn(9, 3, INPUTS), torch.randn(ALL_EXPERTS, 9, 3, 4)
    rows = slice(1, None, 3)
    every, hidden, memory = made(x, *made.initial(3), experts=experts)
    some, hidden_too, memory_too = made(x, *made.initial(3), experts=experts[:, rows], rows=rows)
    torch.testing.assert_close(some, every[:, rows])
    torch.testing.assert_close(hidden_too, hidden)
    torch.testing.assert_close(memory_too, memory)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_each_layer_after_the_first_adds_what_it_is_given(cell: str) -> None:
    made, x = network(cell, layers=3), torch.randn(6, 3, INPUTS)
    for layer in (1, 2):
        for weight in made.recurrent[layer].parameters():
            weight.detach().zero_()  # such a layer gives nothing of its own
    one = network(cell, layers=1)
    one.load_state_dict(
        {name: part for name, part in made.state_dict().items() if name in one.state_dict()}
        | {"hidden0": made.hidden0[:1].detach(), "cell0": made.cell0[:1].detach()}
    )
    hidden, memory = (part.detach().clone() for part in made.initial(3))
    hidden[1:], memory[1:] = 0.0, 0.0
    with torch.inference_mode():
        torch.testing.assert_close(made(x, hidden, memory)[0], one(x, *one.initial(3))[0])


def blocks(values: Floats, made: Network) -> Block:
    block = Block(np.array([0]), values, HOUR)
    for part in before_network(made.config, HOUR):
        _, block = part.step(part.init(values.shape[1]), block)
    windows, series = values.shape
    out = Outputs.empty(len(made.config.quantiles), 0, windows, series, made.config.horizon)
    return replace(block, out=out)


def test_medians_stay_within_what_was_seen_and_those_of_a_trend_do_not() -> None:
    made, t = network(ring=8, halflife=20), np.arange(300.0)
    values = np.stack([np.sin(t), 0.1 * t, -0.1 * t], axis=1)
    for sign in (-1, 1):
        block = blocks(values, made)
        with torch.no_grad():
            made.head.bias[2 * 4 : 3 * 4] = sign * 1e4
        made.step(made.init(3), block)
        forecast = block.out.forecast
        middle, last = forecast[2, -1], values[-1, :, None]
        assert (np.abs(middle[0]) <= 1.0 + 1e-3).all()
        ahead = np.arange(1, 5)
        goes_on, seen = (1, 2) if sign > 0 else (2, 1)
        np.testing.assert_allclose(middle[goes_on] - last[goes_on], sign * 2 * 0.1 * ahead, rtol=1e-4)
        assert middle[seen] == pytest.approx(0.0)
        assert (np.diff(forecast, axis=0) >= 0).all()
        assert (forecast[4, -1] > forecast[0, -1]).all()


def test_the_pinball_loss_is_that_of_its_definition() -> None:
    chance = np.random.default_rng(0)
    forecast, came = chance.normal(size=(3, 6, 2)), chance.normal(size=(6, 2))
    came[2, 1] = np.nan
    levels, weight = [0.1, 0.5, 0.9], chance.random((6, 2))
    expected = [
        weight[i, j] * max(level * (came[i, j] - q[i, j]), (level - 1) * (came[i, j] - q[i, j]))
        for level, q in zip(levels, forecast, strict=True)
        for i in range(6)
        for j in range(2)
        if not np.isnan(came[i, j])
    ]
    found = pinball_loss(
        torch.from_numpy(forecast), torch.from_numpy(came), torch.tensor(levels), torch.from_numpy(weight)
    )
    assert float(found) == pytest.approx(sum(expected) / len(expected), rel=1e-6)


def test_the_pinball_loss_is_least_at_the_quantile() -> None:
    came = torch.from_numpy(np.random.default_rng(0).normal(size=20_000))
    candidates = torch.linspace(-3, 3, 121, dtype=torch.float64)
    for level in (0.1, 0.5, 0.9):
        losses = [
            float(pinball_loss(q.expand(1, len(came)), came, torch.tensor([level]))) for q in candidates
        ]
        best = float(candidates[int(np.argmin(losses))])
        assert best == pytest.approx(float(came.quantile(level)), abs=0.06)


def test_where_nothing_came_there_is_no_loss_and_no_gradient() -> None:
    forecast = torch.zeros(1, 3, requires_grad=True)
    loss = pinball_loss(forecast, torch.full((3,), torch.nan), torch.tensor([0.5]))
    loss.backward()
    assert loss.item() == 0
    assert forecast.grad is not None
    assert (forecast.grad == 0).all()
