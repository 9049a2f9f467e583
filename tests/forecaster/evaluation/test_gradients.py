"""Tests of the norms of gradients of the network, for each number of windows that a gradient goes back."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from forecaster.components.network.network import Network
from forecaster.config import NetworkConfig
from forecaster.evaluation import gradients
from forecaster.evaluation.gradients import gradient_norms
from forecaster.model import Forecaster
from forecaster.reports.gradient_plot import gradient_figure
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from tests.fleets import START


def walks(windows: int = 80, series: int = 5) -> Windows:
    values = np.random.default_rng(0).normal(size=(windows, series)).cumsum(axis=0)
    return Windows(tuple(f"s{i}" for i in range(series)), START, values)


def untrained(cell: str, layers: int = 1, hidden: int = 4, horizon: int = 3) -> Forecaster:
    torch.manual_seed(0)
    config = NetworkConfig.model_validate(
        {"cell": cell, "hidden": hidden, "layers": layers, "horizon": horizon, "lags": (1,), "ring": 2}
        | {"linear": False}
    )
    network = Network(config)
    torch.nn.init.normal_(network.head.weight)
    return Forecaster(config, WindowConfig(), network)


def linear_network(recurrent: NDArray[np.float32]) -> Forecaster:
    """Return an RNN with the recurrent matrix ``recurrent``, and with input weights and biases of 0.

    Its hidden state stays 0, where tanh is linear with slope 1.
    """
    model = untrained("rnn", hidden=len(recurrent))
    weights = model.network.recurrent[0]
    with torch.no_grad():
        for name, weight in weights.named_parameters():
            weight.copy_(torch.from_numpy(recurrent)) if name == "weight_hh_l0" else weight.zero_()
    return model


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1])
def test_gradient_norms_scale_by_matrix_factor_per_window_back(factor: float) -> None:
    # The recurrent matrix is a rotation times ``factor``, and a rotation changes no norm. Each window back
    # multiplies the gradient by the transposed matrix, so the gradient's norm k windows before t is
    # factor ** k times the gradient's norm at t.
    rotation = np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    norms = gradient_norms(linear_network((factor * rotation).astype(np.float32)), walks(), 20)
    assert norms.shape == (21,)
    np.testing.assert_allclose(norms / norms[0], factor ** np.arange(21), rtol=1e-4)


def test_gradient_norms_use_the_transposed_recurrent_matrix() -> None:
    # Hidden unit 0 feeds unit 1, unit 1 feeds unit 2, and the head reads unit 2 alone.
    # So only unit 2 has a gradient at t, only unit 1 one window before t, and only unit 0 two windows before
    # t. In earlier windows, the gradient is 0.
    chain = np.zeros((3, 3), np.float32)
    chain[1, 0], chain[2, 1] = 2.0, 3.0
    model = linear_network(chain)
    with torch.no_grad():
        model.network.head.weight[:, :2] = 0.0
    norms = gradient_norms(model, walks(), 5)
    np.testing.assert_allclose(norms / norms[0], [1, 3, 6, 0, 0, 0], rtol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_hidden_state_gradient_norms_equal_the_norms_from_autograd(cell: str, layers: int) -> None:
    model, lags = untrained(cell, layers), 6
    moment = next(gradients._moments(model, walks(), lags))
    norms = gradients._norms(model.network, moment)
    network, levels = model.network.eval(), torch.tensor(model.network.config.quantiles)
    hidden, cell_state = moment.hidden, moment.cell
    # Compute the gradient of the loss at t with respect to the hidden state k windows before t.
    for k in range(lags, 0, -1):
        for series in range(5):
            leaf = hidden[:, series : series + 1].clone().requires_grad_()
            x = moment.x[lags - k :, series : series + 1]
            quantiles = network(x, leaf, cell_state[:, series : series + 1])[0][:, -1, 0]
            error = moment.target[series] - quantiles
            level = levels[:, None]
            loss = torch.maximum(level * error, (level - 1) * error).mean()
            (gradient,) = torch.autograd.grad(loss, leaf)
            assert float(gradient.norm()) == pytest.approx(float(norms[k, series]), rel=1e-4)
        with torch.no_grad():
            _, hidden, cell_state = network(moment.x[lags - k : lags - k + 1], hidden, cell_state)


def test_an_lstm_whose_forget_gate_is_open_keeps_the_gradient() -> None:
    ratios = []
    for bias in (-5.0, 5.0):
        model = untrained("lstm", hidden=8)
        forget = dict(model.network.recurrent[0].named_parameters())["bias_hh_l0"]
        with torch.no_grad():
            forget[8:16] = bias
        norms = gradient_norms(model, walks(), 20)
        ratios.append(norms[20] / norms[1])
    assert ratios[0] < 1e-6
    assert ratios[1] > 0.01


def test_there_are_no_more_gradient_norms_than_windows() -> None:
    model = untrained("gru")
    assert len(gradient_norms(model, walks(10), 50)) == 10
    assert len(gradient_norms(model, walks(2), 50)) == 2
    assert len(gradient_norms(model, walks(1), 50)) == 0
    nothing = Windows(("a",), START, np.full((20, 1), np.nan))
    assert len(gradient_norms(model, nothing, 5)) == 0


def test_gaps_and_constant_series_give_finite_gradient_norms() -> None:
    windows = walks(60, 5)
    values = windows.values.copy()
    values[::3, 0], values[:40, 1], values[:, 2], values[5:, 3] = np.nan, np.nan, 4.0, np.nan
    norms = gradient_norms(untrained("lstm"), Windows(windows.series_ids, START, values), 16)
    assert len(norms) == 17
    assert np.isfinite(norms).all()
    assert (norms[:3] > 0).all()


def test_computing_gradient_norms_changes_no_weight_or_stored_gradient() -> None:
    model = untrained("lstm")
    before = model.version
    assert gradient_norms(model, walks(), 8).tolist() == gradient_norms(model, walks(), 8).tolist()
    assert Forecaster(model.network_config, model.window_config, model.network).version == before
    assert all(weight.grad is None for weight in model.network.parameters())
    assert not model.network.head._forward_pre_hooks
    assert all(high != low for high, low in pairwise(gradient_norms(model, walks(), 3)))


def test_gradient_legend_compares_norms_at_last_and_first_lag() -> None:
    figure = gradient_figure(np.array([1.0, 0.5, 0.25, 0.125, 0.0]), "rnn")
    assert figure.axes[0].get_yscale() == "log"
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["rnn", "at k = 4: 0 of that at k = 1"]
    figure.savefig(io.BytesIO(), format="png")
    with pytest.raises(ValueError, match="no lag"):
        gradient_figure(np.array([1.0]), "rnn")
