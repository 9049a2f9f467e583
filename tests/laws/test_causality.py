"""Laws: rows after t change no forecast issued at t; held-out rows change no weight after one epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from forecaster.components.network.inputs import network_inputs
from forecaster.components.network.network import Network
from forecaster.components.network.ridge import expert_forecasts
from forecaster.config import NetworkConfig, TrainingConfig
from forecaster.stepping.advance import advance
from forecaster.time.frequency import Frequency
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training import train as fitting
from forecaster.training.epochs import run_epochs
from forecaster.training.train import train
from tests.fleets import SHORT_WEEK, START, fleets, forecaster


def replace_future(fleet: Windows, t: int, seed: int) -> Windows:
    """Return a copy of a fleet that has other values and other gaps from window ``t`` on.

    Each series still has its first value in the same window.
    """
    rng = np.random.default_rng(seed)
    values = fleet.values.copy()
    begun = (~np.isnan(values)).cumsum(axis=0) > 1  # keep the first value of each series
    other = 1e6 * rng.normal(size=values.shape)
    other[rng.random(values.shape) < 0.3] = np.nan
    future = begun & (np.arange(len(values))[:, None] >= t)
    values[future] = other[future]
    return Windows(fleet.series_ids, fleet.start, values)


@pytest.mark.parametrize(
    ("cell", "decoder"), [("lstm", False), ("gru", False), ("rnn", False), ("lstm", True)]
)
@given(fleet=fleets(), t=st.integers(1, 29), seed=st.integers(0, 1000))
def test_a_forecast_does_not_depend_on_later_rows(
    cell: str, decoder: bool, fleet: Windows, t: int, seed: int
) -> None:
    assume(t < len(fleet.values))
    model = forecaster(cell, decoder=decoder, **({} if decoder else SHORT_WEEK))
    other = replace_future(fleet, t, seed)
    _, one = advance(model, model.initial_state(), fleet)
    _, two = advance(model, model.initial_state(), other)
    assert one.series_ids == two.series_ids
    np.testing.assert_array_equal(one.issued[:t], two.issued[:t])
    np.testing.assert_array_equal(one.values[:, :t], two.values[:, :t])


@given(fleet=fleets(), t=st.integers(1, 29), seed=st.integers(0, 1000))
def test_network_inputs_of_a_window_do_not_depend_on_later_rows(fleet: Windows, t: int, seed: int) -> None:
    model = forecaster()
    ridge, season = model.network.ridge.numpy(), 7
    one, two = (
        network_inputs(windows.values, np.array([START]), Frequency(86_400), model.network_config, ridge, 0.1)
        for windows in (fleet, replace_future(fleet, t, seed))
    )
    np.testing.assert_array_equal(one.x[:t], two.x[:t])
    for name in ("mean", "spread", "last", "lowest", "highest", "falls", "rises", "scale", "unit"):
        np.testing.assert_array_equal(
            getattr(one.block, name)[:t], getattr(two.block, name)[:t], err_msg=name
        )
    first, second = (expert_forecasts(found.block, ridge, season)[:, :t] for found in (one, two))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("empty", ["missing", "zero"])
def test_weights_after_one_epoch_ignore_held_out_rows(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(100, 6)).cumsum(axis=0)
    values[rng.random(values.shape) < 0.1] = np.nan
    values[:40, 1] = np.nan
    held_from = 80
    other = values.copy()
    other[held_from:] = 50 * rng.normal(size=other[held_from:].shape)
    other[held_from:, 2] = np.nan

    network = NetworkConfig(hidden=4, horizon=5, lags=(1,), ring=4)
    window_config = WindowConfig.model_validate({"empty": empty})
    # Train for one epoch only: with several epochs, the held-out rows decide which epoch's weights are kept.
    training = TrainingConfig(epochs=1, segment=16, validation=0.1, backtest=0.1, refit=False)
    seen: list[dict[str, torch.Tensor]] = []

    def record_weights(module: Network, *rest: Any) -> Iterator[float]:
        for loss in epochs(module, *rest):
            seen.append({name: weight.clone() for name, weight in module.state_dict().items()})
            yield loss

    epochs = run_epochs
    monkeypatch.setattr(fitting, "run_epochs", record_weights)
    trained = [
        train(Windows(tuple("abcdef"), START, v), network, training, window_config) for v in (values, other)
    ]
    one, two = seen
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert trained[0].history[0]["train_loss"] == trained[1].history[0]["train_loss"]
    assert trained[0].history[0]["validation_loss"] != trained[1].history[0]["validation_loss"]
