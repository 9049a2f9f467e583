"""Tests of the network: its quantiles, its hidden state, its linear experts and its loss."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forecaster.arrays import Floats
from forecaster.components.base import Block, Outputs
from forecaster.components.network.inputs import input_components, input_count
from forecaster.components.network.log_ridge import ALL_EXPERT_COUNT
from forecaster.components.network.network import Network
from forecaster.config import NetworkConfig
from forecaster.training.losses import pinball_loss
from tests.fleets import HOUR

INPUTS = input_count(NetworkConfig(lags=(1,)))
LEVELS = (0.025, 0.1, 0.5, 0.8, 0.975)


def network(cell: str = "lstm", **changes: object) -> Network:
    """Return a network with weights so large that every input changes its forecasts."""
    config = {
        "cell": cell,
        "hidden": 6,
        "layers": 2,
        "horizon": 4,
        "quantiles": LEVELS,
        "lags": (1,),
    } | changes
    net = Network(NetworkConfig.model_validate(config))
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(0.0, 0.5, generator=rng)
    return net.eval()


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_building_a_network_does_not_import_sympy(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # If a module's entry in `sys.modules` is None, importing the module raises ImportError.
    # `symbolic_shapes` imports SymPy, which takes half a second in each process.
    monkeypatch.setitem(sys.modules, "torch.fx.experimental.symbolic_shapes", None)
    network(cell)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@given(seed=st.integers(0, 2**31), factor=st.sampled_from([0.0, 1.0, 1e3, 1e6]))
def test_quantiles_of_the_network_never_cross(cell: str, seed: int, factor: float) -> None:
    net = network(cell)
    x = torch.randn(7, 3, INPUTS, generator=torch.Generator().manual_seed(seed)) * factor
    experts = torch.randn(ALL_EXPERT_COUNT, 7, 3, 4) * factor
    with torch.inference_mode():
        quantiles, _, _ = net(x, *net.initial(3), experts=experts)
    assert quantiles.shape == (len(LEVELS), 7, 3, 4)
    assert torch.isfinite(quantiles).all()
    assert (quantiles.diff(dim=0) >= 0).all()


def test_network_quantiles_differ_even_if_all_inputs_are_0() -> None:
    net = network()
    with torch.inference_mode():
        quantiles, _, _ = net(torch.zeros(3, 2, INPUTS), *net.initial(2))
    assert (quantiles.diff(dim=0) > 0).all()


@pytest.mark.parametrize(("cell", "cells"), [("lstm", 2), ("gru", 0), ("rnn", 0)])
def test_only_an_lstm_has_cell_memory_in_its_state(cell: str, cells: int) -> None:
    net = network(cell)
    hidden, memory = net.initial(3)
    assert hidden.shape == (2, 3, 6)
    assert memory.shape == (cells, 3, 6)
    _, hidden, memory = net(torch.zeros(4, 3, INPUTS), hidden, memory)
    assert hidden.shape == (2, 3, 6)
    assert memory.shape == (cells, 3, 6)


def test_all_series_begin_with_the_same_learned_hidden_state() -> None:
    hidden, cell = network().initial(3)
    assert (hidden[:, 0] == hidden[:, 2]).all()
    assert (cell[:, 0] == cell[:, 2]).all()
    assert hidden.requires_grad


def test_untrained_networks_forecast_near_weighted_mean_of_linear_experts() -> None:
    net = Network(NetworkConfig(hidden=16, horizon=24, lags=(1,))).eval()
    experts = torch.zeros(ALL_EXPERT_COUNT, 50, 4, 24)
    experts[:2] = 3.0
    with torch.inference_mode():
        middle = net(torch.randn(50, 4, INPUTS), *net.initial(4), experts=experts)[0][1]
    # both ridge experts forecast 3, and the sum of their weights is about 0.64
    assert ((middle > 1.7) & (middle < 2.3)).all()


def test_median_equals_weighted_mean_of_expert_forecasts_plus_correction() -> None:
    net, x = network(), torch.randn(5, 3, INPUTS)
    experts, state = torch.randn(ALL_EXPERT_COUNT, 5, 3, 4), net.initial(3)
    with torch.inference_mode():
        alone, one, two = (
            net(x, *state, experts=e)[0] for e in (torch.zeros_like(experts), experts, experts + 2.0)
        )
        without_experts = net(x, *state)[0]
    torch.testing.assert_close(alone, without_experts)
    # Adding 2 to the forecasts of all experts adds 2 to the median, because the weights sum to 1.
    torch.testing.assert_close(two, one + 2.0)
    low, high = experts.min(dim=0).values, experts.max(dim=0).values
    assert ((one - alone >= low - 1e-5) & (one - alone <= high + 1e-5)).all()


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_forecasts_of_selected_windows_equal_forecasts_of_all_windows(cell: str) -> None:
    """To save time, the network can compute the forecasts of only some windows of a block."""
    net, x, experts = network(cell), torch.randn(9, 3, INPUTS), torch.randn(ALL_EXPERT_COUNT, 9, 3, 4)
    rows = slice(1, None, 3)
    every, hidden, memory = net(x, *net.initial(3), experts=experts)
    some, hidden_some, memory_some = net(x, *net.initial(3), experts=experts[:, rows], rows=rows)
    torch.testing.assert_close(some, every[:, rows])
    torch.testing.assert_close(hidden_some, hidden)
    torch.testing.assert_close(memory_some, memory)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_layers_after_the_first_add_output_to_input(cell: str) -> None:
    net, x = network(cell, layers=3), torch.randn(6, 3, INPUTS)
    for layer in (1, 2):
        for weight in net.recurrent[layer].parameters():
            weight.detach().zero_()  # with weights and a state of 0, a layer adds nothing to its input
    one = network(cell, layers=1)
    one.load_state_dict(
        {name: part for name, part in net.state_dict().items() if name in one.state_dict()}
        | {"hidden0": net.hidden0[:1].detach(), "cell0": net.cell0[:1].detach()}
    )
    hidden, memory = (part.detach().clone() for part in net.initial(3))
    hidden[1:], memory[1:] = 0.0, 0.0
    with torch.inference_mode():
        torch.testing.assert_close(net(x, hidden, memory)[0], one(x, *one.initial(3))[0])


def block_before_network(values: Floats, net: Network) -> Block:
    """Return a block of hourly values, stepped through the components before the network."""
    block = Block(np.array([0]), values, HOUR)
    for part in input_components(net.config, HOUR):
        _, block = part.step(part.init(values.shape[1]), block)
    windows, series = values.shape
    out = Outputs.empty(len(net.config.quantiles), 0, windows, series, net.config.horizon)
    return replace(block, out=out)


def test_medians_leave_the_range_of_past_values_only_along_a_trend() -> None:
    net, t = network(ring=8, halflife=20), np.arange(300.0)
    values = np.stack([np.sin(t), 0.1 * t, -0.1 * t], axis=1)
    for sign in (-1, 1):
        block = block_before_network(values, net)
        with torch.no_grad():
            net.head.bias[2 * 4 : 3 * 4] = sign * 1e4
        net.step(net.init(3), block)
        forecast = block.out.forecast
        middle, last = forecast[2, -1], values[-1, :, None]
        assert (np.abs(middle[0]) <= 1.0 + 1e-3).all()
        ahead = np.arange(1, 5)
        with_trend, against_trend = (1, 2) if sign > 0 else (2, 1)
        np.testing.assert_allclose(middle[with_trend] - last[with_trend], sign * 2 * 0.1 * ahead, rtol=1e-4)
        assert middle[against_trend] == pytest.approx(0.0)
        assert (np.diff(forecast, axis=0) >= 0).all()
        assert (forecast[4, -1] > forecast[0, -1]).all()


def test_the_pinball_loss_follows_its_definition() -> None:
    rng = np.random.default_rng(0)
    forecast, actual = rng.normal(size=(3, 6, 2)), rng.normal(size=(6, 2))
    actual[2, 1] = np.nan
    levels, weight = [0.1, 0.5, 0.9], rng.random((6, 2))
    expected = [
        weight[i, j] * max(level * (actual[i, j] - q[i, j]), (level - 1) * (actual[i, j] - q[i, j]))
        for level, q in zip(levels, forecast, strict=True)
        for i in range(6)
        for j in range(2)
        if not np.isnan(actual[i, j])
    ]
    found = pinball_loss(
        torch.from_numpy(forecast), torch.from_numpy(actual), torch.tensor(levels), torch.from_numpy(weight)
    )
    assert float(found) == pytest.approx(sum(expected) / len(expected), rel=1e-6)


def test_the_pinball_loss_is_least_at_the_quantile() -> None:
    actual = torch.from_numpy(np.random.default_rng(0).normal(size=20_000))
    candidates = torch.linspace(-3, 3, 121, dtype=torch.float64)
    for level in (0.1, 0.5, 0.9):
        losses = [
            float(pinball_loss(q.expand(1, len(actual)), actual, torch.tensor([level]))) for q in candidates
        ]
        best = float(candidates[int(np.argmin(losses))])
        assert best == pytest.approx(float(actual.quantile(level)), abs=0.06)


def test_missing_actuals_add_no_pinball_loss_and_no_gradient() -> None:
    forecast = torch.zeros(1, 3, requires_grad=True)
    loss = pinball_loss(forecast, torch.full((3,), torch.nan), torch.tensor([0.5]))
    loss.backward()
    assert loss.item() == 0
    assert forecast.grad is not None
    assert (forecast.grad == 0).all()
