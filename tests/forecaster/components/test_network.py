from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forecaster.components.inputs import INPUTS_BESIDE_LAGS
from forecaster.components.network import Network, pinball_loss
from forecaster.config import NetworkConfig

INPUTS = INPUTS_BESIDE_LAGS + 1
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
    with torch.inference_mode():
        quantiles, _, _ = made(x, *made.initial(3))
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


def test_an_untrained_network_forecasts_that_hardly_anything_changes() -> None:
    made = Network(NetworkConfig(hidden=16, horizon=24, lags=(1,))).eval()
    with torch.inference_mode():
        quantiles, _, _ = made(torch.randn(50, 4, INPUTS), *made.initial(4))
    assert quantiles[1].abs().max() < 0.2


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
