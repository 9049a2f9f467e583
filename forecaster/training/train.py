"""Train a network on a fleet with truncated back-propagation through time.

Training has two phases. The first phase finds the number of epochs: the network learns from the first
windows, and every epoch is scored on the validation windows that follow. A last part of the windows is used
in neither way, so that a backtest can judge the result. The second phase, the refit, starts from the same
initial weights and learns from all windows for that number of epochs, so that the network has seen the newest
windows.

Letters: N horizon, Q quantiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import polars as pl

from forecaster.components.network.network import Network
from forecaster.components.profile import Profile
from forecaster.config import NetworkConfig, OnlineConfig, TrainingConfig
from forecaster.covariates.encoding import Tables
from forecaster.model import Forecaster
from forecaster.threads import compute_threads
from forecaster.time.aggregation import aggregate
from forecaster.time.size_check import check_size
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows, observed
from forecaster.training.batches import Fleet, fleet_of
from forecaster.training.epochs import Epoch, run_epochs, validate, weights_of
from forecaster.training.first_weights import check_start, covariates_for, first_weights
from forecaster.training.losses import (
    divergence_error,
    horizon_weights,
)


@dataclass(frozen=True)
class Trained:
    """The result of training: the forecaster to use, the forecaster of the best epoch, and losses by epoch.

    Attributes:
        forecaster: the forecaster to use: refit to all windows, or ``chosen`` if ``training.refit`` is off or
            no windows were held out.
        chosen: the weights of the best epoch, or the initial ones if no epoch was better. They do not depend
            on the windows of the backtest.
        history: per epoch of the first phase
            ``epoch, train_loss, validation_loss, validation_skill, seconds``. Losses are weighted
            mean pinball losses in units. The skill is 1 minus the ratio of the pinball loss to that of
            persistence, averaged over horizons, so it can be compared between settings. ``validation_*`` are
            absent if no windows were held out for scores.
        epochs: number of epochs of the chosen weights; 0 if the initial weights did best.
        refit_history: per epoch of the second phase ``epoch, refit_loss, refit_seconds``.
    """

    forecaster: Forecaster
    chosen: Forecaster
    history: list[Epoch]
    epochs: int
    refit_history: list[Epoch] = field(default_factory=list)


def train(
    windows: Windows | pl.DataFrame,
    network: NetworkConfig | None = None,
    training: TrainingConfig | None = None,
    window_config: WindowConfig | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    online: OnlineConfig | None = None,
    tables: Tables | None = None,
    start: Forecaster | None = None,
) -> Trained:
    """Train a network on all series of ``windows``; return a `Trained`, with two forecasters and the losses.

    Every series is stepped from its first value to its end. The loss of a segment is a weighted mean over
    series, horizons and every fourth window. A segment begins with the state after the segment before it, but
    gradients stop at the beginning of a segment. The order of the batches changes each epoch. The same seed,
    machine and number of threads give the same weights, bit for bit.

    Args:
        windows: the values, or an observation frame, which is aggregated first. The last parts are held out
            until the second phase, as ``training`` specifies.
        network: shape of the network.
        training: settings of the fit.
        window_config: length of a window, and how rows are aggregated.
        on_epoch: called after every epoch of both phases.
        online: settings of the parts that learn beside the network in a running job.
        tables: tables of covariates.
        start: a model whose weights the training starts from, and whose linear part and encoding of
            covariates it keeps (fine-tuning); by default the training starts from random weights.

    Raises:
        ConfigError: ``start`` has another network or other windows; or there are known covariates, but the
            network has no decoder to read them.
        DataError: no series is long enough to learn from, or the loss becomes or would become infinite or
            NaN; the message names the series.
    """
    network, training = network or NetworkConfig(), training or TrainingConfig()
    window_config, online = window_config or WindowConfig(), online or OnlineConfig()
    if isinstance(windows, pl.DataFrame):
        windows = aggregate(windows, window_config).windows
    check_start(start, network, window_config)
    windows = observed(windows, window_config)
    check_size(windows)
    validation_from, backtest_from = held_out_from(len(windows.values), training)

    def fleet(part: Windows, held_from: int) -> Fleet:
        freq, gap = window_config.frequency, window_config.max_gap
        covariates = covariates_for(start, tables or Tables(), windows, window_config, network, held_from)
        return fleet_of(part, network, freq, training.batch_series, held_from, covariates, gap)

    profile = Profile.of(windows, tuple(windows.past))
    with compute_threads(training.threads):
        first_phase = fleet(windows.rows(0, backtest_from), validation_from)
        module, history, epochs = _fit_best_epoch(first_phase, training, start, on_epoch)
        chosen = Forecaster(network, window_config, module, online, first_phase.covariates, profile)
        if not training.refit or validation_from == len(windows.values):
            return Trained(chosen, chosen, history, epochs)
        all_windows = fleet(windows, len(windows.values))
        module, refit_history = _refit(all_windows, training, start, epochs, on_epoch)
    forecaster = Forecaster(network, window_config, module, online, all_windows.covariates, profile)
    return Trained(forecaster, chosen, history, epochs, refit_history)


def held_out_from(windows: int, training: TrainingConfig) -> tuple[int, int]:
    """Return the position of the first validation window, and that of the first backtest window.

    Args:
        windows: the number of windows; their positions are counted from 0.
        training: the shares of the windows for validation and backtest.
    """
    backtest_from = windows - round(training.backtest * windows)
    return backtest_from - round(training.validation * windows), backtest_from


def loss_of(epoch: Epoch) -> float:
    """Return the loss by which epochs are compared: validation loss, else training loss, else refit loss."""
    return next(epoch[name] for name in ("validation_loss", "train_loss", "refit_loss") if name in epoch)


def _fit_best_epoch(
    fleet: Fleet, training: TrainingConfig, start: Forecaster | None, on_epoch: Callable[[Epoch], None]
) -> tuple[Network, list[Epoch], int]:
    """Train for all epochs; return the network with its best weights, which can be the initial ones.

    Returns:
        The network, the history of all epochs, and the number of the best epoch; 0 for the initial weights.
    """
    module, fleet = first_weights(fleet, training, start)
    weighing = horizon_weights(fleet, training.segment)
    history: list[Epoch] = []
    # Score the first weights, too: with few series, the fitted linear part is often better than any epoch.
    before_training = validate(module, fleet, training.segment, weighing)
    lowest = before_training.get("validation_loss", float("inf"))
    best_weights, best_epoch = weights_of(module), 0
    began = time.monotonic()
    for number, loss in enumerate(run_epochs(module, fleet, training, weighing), 1):
        epoch: Epoch = {"epoch": number, "train_loss": loss}
        epoch |= validate(module, fleet, training.segment, weighing)
        if not np.isfinite(list(epoch.values())).all():
            all_batches = range(len(fleet.batches))
            raise divergence_error(fleet, all_batches, training.segment, weighing, epoch=number)
        epoch["seconds"] = time.monotonic() - began
        history.append(epoch)
        on_epoch(epoch)
        if loss_of(epoch) < lowest:
            best_weights, lowest, best_epoch = weights_of(module), loss_of(epoch), number
        began = time.monotonic()
    module.load_state_dict(best_weights)
    return module, history, best_epoch


def _refit(
    fleet: Fleet,
    training: TrainingConfig,
    start: Forecaster | None,
    epochs: int,
    on_epoch: Callable[[Epoch], None],
) -> tuple[Network, list[Epoch]]:
    """Train a network on all windows for ``epochs`` epochs, from the first weights (see `first_weights`).

    The learning rate of each epoch is that of the same epoch in `_fit_best_epoch`.
    """
    module, fleet = first_weights(fleet, training, start)
    weighing = horizon_weights(fleet, training.segment)
    history: list[Epoch] = []
    began = time.monotonic()
    for number, loss in enumerate(islice(run_epochs(module, fleet, training, weighing), epochs), 1):
        epoch: Epoch = {"epoch": number, "refit_loss": loss, "refit_seconds": time.monotonic() - began}
        history.append(epoch)
        on_epoch(epoch)
        began = time.monotonic()
    return module, history
