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


def linear(recurrent: NDArray[np.float32]) -> Forecaster:
    """A plain network that reads nothing: its hidden state stays 0, where tanh is linear with slope 1."""
    made = untrained("rnn", hidden=len(recurrent))
    weights = made.network.recurrent[0]
    with torch.no_grad():
        for name, weight in weights.named_parameters():
            weight.copy_(torch.from_numpy(recurrent)) if name == "weight_hh_l0" else weight.zero_()
    return made


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1])
def test_the_gradients_of_a_linear_network_fall_as_the_powers_of_its_recurrent_matrix(factor: float) -> None:
    # A rotation times a factor: whatever the gradient at t, k windows back its norm is factor ** k of it.
    turn = np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    norms = gradient_norms(linear((factor * turn).astype(np.float32)), walks(), 20)
    assert norms.shape == (21,)
    np.testing.assert_allclose(norms / norms[0], factor ** np.arange(21), rtol=1e-4)


def test_a_gradient_goes_through_the_transpose_of_the_recurrent_matrix() -> None:
    # Unit 0 feeds 1 feeds 2, and only unit 2 is read: the gradient walks back from 2 to 0, then out.
    chain = np.zeros((3, 3), np.float32)
    chain[1, 0], chain[2, 1] = 2.0, 3.0
    made = linear(chain)
    with torch.no_grad():
        made.network.head.weight[:, :2] = 0.0
    norms = gradient_norms(made, walks(), 5)
    np.testing.assert_allclose(norms / norms[0], [1, 3, 6, 0, 0, 0], rtol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_norms_are_those_of_the_gradient_to_the_hidden_state_of_all_layers(cell: str, layers: int) -> None:
    made, lags = untrained(cell, layers), 6
    moment = next(gradients._moments(made, walks(), lags))
    found = gradients._norms(made.network, moment)
    network, levels = made.network.eval(), torch.tensor(made.network.config.quantiles)
    hidden, cell_state = moment.hidden, moment.cell
    for k in range(lags, 0, -1):  # step up to t - k, then from a leaf to t in one call
        for series in range(5):
            own = hidden[:, series : series + 1].clone().requires_grad_()
            x = moment.x[lags - k :, series : series + 1]
            quantiles = network(x, own, cell_state[:, series : series + 1])[0][:, -1, 0]
            error = moment.target[series] - quantiles
            level = levels[:, None]
            loss = torch.maximum(level * error, (level - 1) * error).mean()
            (gradient,) = torch.autograd.grad(loss, own)
            assert float(gradient.norm()) == pytest.approx(float(found[k, series]), rel=1e-4)
        with torch.no_grad():
            _, hidden, cell_state = network(moment.x[lags - k : lags - k + 1], hidden, cell_state)


def test_an_open_forget_gate_keeps_a_gradient_that_a_shut_one_loses() -> None:
    kept = []
    for bias in (-5.0, 5.0):
        made = untrained("lstm", hidden=8)
        forget = dict(made.network.recurrent[0].named_parameters())["bias_hh_l0"]
        with torch.no_grad():
            forget[8:16] = bias
        norms = gradient_norms(made, walks(), 20)
        kept.append(norms[20] / norms[1])
    assert kept[0] < 1e-6
    assert kept[1] > 0.01


def test_lags_go_no_further_than_the_windows() -> None:
    made = untrained("gru")
    assert len(gradient_norms(made, walks(10), 50)) == 10
    assert len(gradient_norms(made, walks(2), 50)) == 2
    assert len(gradient_norms(made, walks(1), 50)) == 0
    nothing = Windows(("a",), START, np.full((20, 1), np.nan))
    assert len(gradient_norms(made, nothing, 5)) == 0


def test_gaps_constant_and_short_series_give_numbers() -> None:
    windows = walks(60, 5)
    values = windows.values.copy()
    values[::3, 0], values[:40, 1], values[:, 2], values[5:, 3] = np.nan, np.nan, 4.0, np.nan
    norms = gradient_norms(untrained("lstm"), Windows(windows.series_ids, START, values), 16)
    assert len(norms) == 17
    assert np.isfinite(norms).all()
    assert (norms[:3] > 0).all()


def test_a_look_at_gradients_leaves_the_weights_and_theirs_alone() -> None:
    made = untrained("lstm")
    before = made.version
    assert gradient_norms(made, walks(), 8).tolist() == gradient_norms(made, walks(), 8).tolist()
    assert Forecaster(made.network_config, made.window_config, made.network).version == before
    assert all(weight.grad is None for weight in made.network.parameters())
    assert not made.network.head._forward_pre_hooks
    assert all(high != low for high, low in pairwise(gradient_norms(made, walks(), 3)))


def test_the_picture_says_what_is_left_of_the_gradient() -> None:
    figure = gradient_figure(np.array([1.0, 0.5, 0.25, 0.125, 0.0]), "rnn")
    assert figure.axes[0].get_yscale() == "log"
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["rnn", "at k = 4: 0 of that at k = 1"]
    figure.savefig(io.BytesIO(), format="png")
    with pytest.raises(ValueError, match="no lag"):
        gradient_figure(np.array([1.0]), "rnn")
