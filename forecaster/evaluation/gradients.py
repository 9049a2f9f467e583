"""Measure how far back the gradients of a trained network reach (vanishing gradients).

`gradient_norms` returns the norm of ``dLoss_t / dh_(t-k)`` for each ``k``. In a plain recurrent network, this
gradient is a product,

    dLoss_t / dh_(t-k) = dLoss_t / dh_t · Π_{i = t-k+1..t} dh_i / dh_(i-1)

which shrinks or grows geometrically with ``k`` (Bengio, Simard & Frasconi 1994, "Learning long-term
dependencies with gradient descent is difficult"; Pascanu, Mikolov & Bengio 2013, "On the difficulty of
training recurrent neural networks", equation 5). The gates of an LSTM or a GRU slow this decrease.

Letters: S series, L layers, H hidden width, N horizon, F inputs, K experts, C known covariates, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from forecaster.components.network.network import Network
from forecaster.model import Forecaster
from forecaster.state import Floats
from forecaster.time.windows import Windows, observed
from forecaster.training.batches import fleet_of
from forecaster.training.losses import pinball_loss

_SERIES, _MOMENTS = 64, 8


class Moment(NamedTuple):
    """The inputs from which the loss at one window t is computed, and the state before these inputs.

    Attributes:
        x: ``[lags, S, F]`` inputs of the windows up to t.
        target: ``[S, N]`` values after t, as changes in units; NaN where missing.
        experts: ``[K, 1, S, N]`` forecasts of the linear experts at t; None if there are none.
        known: ``[1, N, S or 1, C]`` known covariates of the windows after t; None without a decoder.
        hidden, cell: ``[L, S, H]`` state before the first of the windows, see `Network.forward`.
    """

    x: Tensor
    target: Tensor
    experts: Tensor | None
    known: Tensor | None
    hidden: Tensor
    cell: Tensor


def gradient_norms(forecaster: Forecaster, windows: Windows, lags: int) -> Floats:
    """Return, by k, the norm of a window's loss gradient with respect to the hidden state k windows before.

    It is the norm of ``dLoss_t / dh_(t-k)`` for ``k = 0 .. lags``, averaged over series and windows t. ``h``
    is the hidden state of all layers that one window passes to the next. At ``k = 0`` it is the input of the
    heads, the output of the last layer. The loss of a series is the mean pinball loss over its horizons.

    Args:
        forecaster: the trained forecaster.
        windows: the windows on which it was trained; the mean is over some series and some windows, spread
            evenly.
        lags: how many windows to look back; at most the number of windows.

    Returns:
        ``[lags + 1]``, fewer if there are fewer windows; empty if no series has two windows with a value.
    """
    norms = [_norms(forecaster.network, moment) for moment in _moments(forecaster, windows, lags)]
    return torch.cat(norms, dim=1).mean(dim=1).double().numpy() if norms else np.empty(0)


def _moments(forecaster: Forecaster, windows: Windows, lags: int) -> Iterator[Moment]:
    """Yield a `Moment` for each of at most 8 evenly spread windows of the training batch.

    Each moment has the inputs of ``lags`` windows, of which its own window is the last; of fewer windows if
    the history is shorter. A window without a target has no moment.
    """
    network, config = forecaster.network, forecaster.window_config
    windows = observed(windows, config)
    index = np.flatnonzero((~np.isnan(windows.values)).sum(axis=0) > 1)
    if not len(index):
        return
    index = index[np.unique(np.linspace(0, len(index) - 1, _SERIES, dtype=int))]
    sample = windows.of_series(index)
    ridge = network.ridge.numpy() if network.config.linear else None
    fleet = fleet_of(
        sample,
        network.config,
        config.frequency,
        sample.values.size,  # a batch size that no number of active periods exceeds, so there is one batch
        covariates=forecaster.covariates,
        max_gap=config.max_gap,
    )
    batch = fleet.with_linear_part(ridge, float(network.prior)).batch(0)
    latest = len(batch) - 2  # the latest window with a target: no value follows the last window
    lags = min(lags, latest + 1)
    hidden, cell = network.initial(len(batch.series_ids), batch.static())
    at = 0
    for end in np.unique(np.linspace(lags - 1, latest, _MOMENTS, dtype=int)).tolist():
        first = end - lags + 1
        if first > at:
            with torch.no_grad():
                _, hidden, cell = network(batch.x[at:first], hidden, cell)
        at = first
        now = np.array([end])
        target = torch.from_numpy(batch.targets(now)[0])
        if not torch.isnan(target).all():
            x = batch.x[first : end + 1]
            known = batch.known(slice(end, end + 1))
            yield Moment(x, target, batch.experts(now), known, hidden.detach(), cell.detach())


def _norms(network: Network, moment: Moment) -> Tensor:
    """Return the norms of the loss's gradients with respect to the hidden states, by lag and series.

    They are ``[lags + 1, S]``, without the series that have no target. Row 0 is for the input of the heads at
    the last window, row k for the hidden state k windows earlier (see `gradient_norms`).
    """
    network.eval()
    head_inputs: list[Tensor] = []
    hook = network.head.register_forward_pre_hook(lambda head, given: head_inputs.append(given[0]))
    hidden, cell, carried = moment.hidden, moment.cell, []
    try:
        for x in moment.x.unsqueeze(1):
            # The gradient with respect to the hidden state is taken with respect to a zero added to it.
            zero = torch.zeros_like(hidden, requires_grad=True)
            carried.append(zero)
            quantiles, hidden, cell = network(
                x, hidden + zero, cell, experts=moment.experts, known=moment.known
            )
    finally:
        hook.remove()
    # The loss of a series depends on no other series' state. So the gradient of the summed loss with respect
    # to the state of a series equals the gradient of that series' own loss.
    loss = _loss_by_series(network, quantiles[:, 0], moment.target).sum()
    last, *gradients = torch.autograd.grad(loss, [head_inputs[-1], *reversed(carried)])
    norms = [last.squeeze(0).norm(dim=-1), *(g.movedim(1, 0).flatten(1).norm(dim=-1) for g in gradients)]
    return torch.stack(norms)[:, ~torch.isnan(moment.target).all(dim=-1)]


def _loss_by_series(network: Network, quantiles: Tensor, target: Tensor) -> Tensor:
    """Return each series' mean pinball loss.

    ``quantiles`` is ``[Q, S, N]``, ``target`` is ``[S, N]``, the result ``[S]``.
    """
    levels = torch.tensor(network.config.quantiles)
    pairs = zip(quantiles.unbind(1), target, strict=True)
    return torch.stack([pinball_loss(forecast, actual, levels) for forecast, actual in pairs])
