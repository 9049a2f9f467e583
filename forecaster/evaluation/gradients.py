"""How far back a trained network's gradients reach: vanishing gradients, measured.

The norm of ``dLoss_t / dh_(t-k)`` against ``k``. In a plain recurrent network it is that of a product,

    dLoss_t / dh_(t-k) = dLoss_t / dh_t · Π_{i = t-k+1..t} dh_i / dh_(i-1)

and shrinks or grows geometrically in ``k`` (Bengio, Simard & Frasconi 1994, "Learning long-term dependencies
with gradient descent is difficult"; Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent
neural networks", equation 5). The gates of an LSTM or a GRU are there to slow its fall.

Letters: S series, L layers, H hidden width, N horizon.
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
    """What a loss at window t is made from, the states before it carried.

    Attributes:
        x: ``[lags, S, F]`` inputs of the windows up to t.
        target: ``[S, N]`` what came after t, in units; NaN where nothing did.
        experts: ``[K, 1, S, N]`` what the linear experts forecast at t; None where there are none.
        known: ``[1, N, S or 1, C]`` what is known of the windows after t; None without a decoder.
        hidden, cell: ``[L, S, H]`` state before the first of them, see `Network.forward`.
    """

    x: Tensor
    target: Tensor
    experts: Tensor | None
    known: Tensor | None
    hidden: Tensor
    cell: Tensor


def gradient_norms(forecaster: Forecaster, windows: Windows, lags: int) -> Floats:
    """Norm of ``dLoss_t / dh_(t-k)`` for ``k = 0 .. lags``, averaged over series and windows t.

    ``h`` is the hidden state of all layers that a window hands to the next. At ``k = 0`` it is what the heads
    read, the output of the last layer. The loss of a series is the mean pinball loss over its horizons.

    Args:
        forecaster: what was trained.
        windows: what it was trained on; some series and moments of them are taken, spread evenly.
        lags: how far back to look; no further than the windows go.

    Returns:
        ``[lags + 1]``, fewer where the windows are; empty where no series has two windows with a value.
    """
    norms = [_norms(forecaster.network, moment) for moment in _moments(forecaster, windows, lags)]
    return torch.cat(norms, dim=1).mean(dim=1).double().numpy() if norms else np.empty(0)


def _moments(forecaster: Forecaster, windows: Windows, lags: int) -> Iterator[Moment]:
    """Moments spread evenly over the windows, each as deep as ``lags``; those with a target only."""
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
        sample.values.size,  # all lives in one batch
        covariates=forecaster.covariates,
        max_gap=config.max_gap,
    )
    batch = fleet.knowing(ridge, float(network.prior)).batch(0)
    latest = len(batch) - 2  # the last window with a target
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
    """``[lags + 1, S]``, of the series with a target."""
    network.eval()
    read: list[Tensor] = []
    hook = network.head.register_forward_pre_hook(lambda head, given: read.append(given[0]))
    hidden, cell, carried = moment.hidden, moment.cell, []
    try:
        for x in moment.x.unsqueeze(1):
            # A leaf in the graph between two windows: the gradient to it is that to the state handed over.
            nudge = torch.zeros_like(hidden, requires_grad=True)
            carried.append(nudge)
            quantiles, hidden, cell = network(
                x, hidden + nudge, cell, experts=moment.experts, known=moment.known
            )
    finally:
        hook.remove()
    loss = _loss_by_series(network, quantiles[:, 0], moment.target).sum()  # no series touches another's state
    last, *gradients = torch.autograd.grad(loss, [read[-1], *reversed(carried)])
    norms = [last.squeeze(0).norm(dim=-1), *(g.movedim(1, 0).flatten(1).norm(dim=-1) for g in gradients)]
    return torch.stack(norms)[:, ~torch.isnan(moment.target).all(dim=-1)]


def _loss_by_series(network: Network, quantiles: Tensor, target: Tensor) -> Tensor:
    """``[S]`` mean pinball loss over horizons: quantiles ``[Q, S, N]``, target ``[S, N]``."""
    levels = torch.tensor(network.config.quantiles)
    pairs = zip(quantiles.unbind(1), target, strict=True)
    return torch.stack([pinball_loss(own, came, levels) for own, came in pairs])
