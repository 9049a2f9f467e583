"""The recurrent network that all series share.

Letters: T windows, n rows of them, S series, F inputs, L layers, H hidden width, K linear experts, N horizon,
Q quantiles, C known features of a window, D static ones of a series.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forecaster.arrays import Arrays, Floats32, Ints
from forecaster.components.base import Block, Field
from forecaster.components.network.decoder import Decoder, trained_horizons
from forecaster.components.network.inputs import (
    block_inputs,
    expert_errors,
    future_features,
    input_count,
    with_covariates,
)
from forecaster.components.network.log_ridge import ALL_EXPERT_COUNT, ALL_RIDGE_COUNT, linear_forecasts
from forecaster.components.network.random_parts import Dropout, random_linear, small_linear
from forecaster.components.network.recurrent import Recurrent
from forecaster.components.network.ridge import LINEAR_EXPERT_COUNT, RIDGE_COUNT, regressor_count
from forecaster.components.observed_covariates import INPUTS_PER_COVARIATE
from forecaster.components.season import ring_season
from forecaster.config import NetworkConfig

_ALL = slice(None)
# The initial logit of the two ridge regressions of values; it is 0 for the other five linear experts.
# So before training, the two regressions together have about 64 % of the weight.
_TRUST_IN_RIDGES = 1.5
# The log scale of a series without values is at most this far from 0, so that the scale's square is finite.
_LARGEST_LOG_SCALE = 345.0
# The median at horizon h is clipped to a range around the past values of the series:
# from the lowest minus ``_ROOM * h * Block.falls`` to the highest plus ``_ROOM * h * Block.rises``.
_ROOM = 2.0
_READS = frozenset({"history", "before", "mean", "spread", "last", "lowest", "highest", "falls", "rises"})
_READS |= {"scale", "unit", "age", "observed"}


class Network(nn.Module):
    """The recurrent network that all series share: it weighs the linear experts and adds a learned change.

    Its inputs are level-free, and its outputs are changes from the last value in units (`Block`). The median
    of a horizon is a weighted mean of the linear experts' forecasts (see
    `forecaster.components.network.ridge`) plus the network's own change; without a linear part the median is
    that change alone. Every other quantile differs from its neighbour on the median's side by a softplus, so
    that quantiles cannot cross (Gasthaus et al. 2019, "Probabilistic Forecasting with Spline Quantile
    Function RNNs", section 3).

    As a component of the state it owns ``hidden`` and, for an LSTM, ``cell``: ``[S, L, H]`` float32; and,
    with a linear part, ``expected``: ``[S, 6]`` float32, the change in units that each linear expert but the
    logarithmic one forecast for the next window.

    With a decoder, the decoder's output for each step is added to the parts of every quantile, and any number
    of steps can be forecast: beyond the horizon the other parts repeat the last season. With static features,
    the initial state of a series is a learned function of them, and a whole trajectory can be forecast for a
    series without any value (`cold`).

    Attributes:
        ridge: buffer ``[3, F, N]`` float32, the ridge regressions; no rows without a linear part.
        prior: buffer, the scale of a series with one value, as a share of that value.
        of_static: buffer ``[1 + D, 2]`` float64, the ridge regression of level and log scale on 1 and the
            static features; absent without static features.
    """

    name = "network"
    format_version = 2
    writes = frozenset({"out.forecast"})
    ridge: Tensor
    prior: Tensor
    of_static: Tensor
    # Declare that a call returns Tensors: torch declares Any.
    __call__: Callable[..., tuple[Tensor, Tensor, Tensor]]

    def __init__(
        self,
        config: NetworkConfig,
        dropout: float = 0.0,
        known: int = 0,
        static: int = 0,
        past: tuple[str, ...] = (),
        rng: torch.Generator | None = None,
    ) -> None:
        """Build a network with random weights.

        Args:
            config: settings.
            dropout: share of the recurrent layers' outputs that are dropped in training.
            known: C.
            static: D.
            past: names of the observed covariates.
            rng: draws the initial weights and dropout; by default a new generator with a fixed seed.
        """
        super().__init__()
        rng = rng or torch.Generator()
        self.config, self.past = config, past
        self.covariates = known + static + INPUTS_PER_COVARIATE * len(past)
        width, experts = config.hidden, ALL_EXPERT_COUNT if config.linear else 0
        self.recurrent = Recurrent(
            config.cell, input_count(config, self.covariates), width, config.layers, rng
        )
        self.dropout = Dropout(dropout, rng)
        # For each horizon, the head outputs a number for each quantile and a logit for each linear expert.
        # The head begins with small weights: an untrained median is almost the linear experts' weighted mean.
        self.head = small_linear(width, (len(config.quantiles) + experts) * config.horizon, rng)
        self.hidden0 = nn.Parameter(torch.zeros(config.layers, width))
        self.cell0 = nn.Parameter(torch.zeros(config.layers if config.cell == "lstm" else 0, width))
        if experts:
            blocks = self.head.bias.detach().view(-1, config.horizon)
            blocks[len(config.quantiles) : len(config.quantiles) + RIDGE_COUNT] = _TRUST_IN_RIDGES
        ridges = ALL_RIDGE_COUNT if config.linear else 0
        self.register_buffer("ridge", torch.zeros(ridges, regressor_count(config.ring), config.horizon))
        self.register_buffer("prior", torch.zeros(()))
        if config.decoder:
            self.decoder = Decoder(width, known, len(config.quantiles), rng)
        if static:
            self.begin = random_linear(static, config.layers * width, rng, bias=False)
            nn.init.zeros_(self.begin.weight)
            self.register_buffer("of_static", torch.zeros(1 + static, 2, dtype=torch.float64))

    def initial(self, series: int, static: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the learned initial hidden state of ``series`` series and, for an LSTM, their cell state.

        Args:
            series: S.
            static: ``[S, D]`` float32, the static features; without them, the part that all series share.

        Returns:
            ``[L, S, H]`` each; the cell state is ``[0, S, H]`` for other cells than an LSTM.
        """
        hidden = self.hidden0.unsqueeze(1).expand(-1, series, -1)
        if static is not None and static.shape[1]:
            hidden = hidden + self._static_offset(static)
        return hidden.contiguous(), self.cell0.unsqueeze(1).expand(-1, series, -1).contiguous()

    def _static_offset(self, static: Tensor) -> Tensor:
        """Return the part of the initial hidden state that depends on static features.

        ``static`` is ``[S, D]``, the result ``[L, S, H]``.
        """
        offset: Tensor = self.begin(static)
        return offset.view(len(static), self.config.layers, -1).movedim(1, 0)

    def cold(self, static: Tensor, known: Tensor) -> Tensor:
        """Return forecasts of series without a value yet, in standard deviations from their predicted mean.

        `level_and_scale` predicts the mean and the standard deviation of each series.

        Args:
            static: ``[S, D]`` float32.
            known: ``[n, N, S or 1, C]`` float32, the features of the N windows to forecast, after each of
                ``n`` beginnings; N can be any number.

        Returns:
            Quantiles ``[Q, n, S, N]``.
        """
        hidden, _ = self.initial(len(static), static)
        # Each layer after the first adds its input to its hidden state, and passes on the sum. So the
        # output of the last layer is the sum of the hidden states of all layers.
        top = hidden.sum(dim=0).expand(len(known), -1, -1)
        return self._quantiles(self.decoder(top, known), None)

    def level_and_scale(self, static: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predicted mean and standard deviation of series without a value yet.

        They are computed from the static features of the series.

        Args:
            static: ``[S, D]`` float32.

        Returns:
            ``[S]`` float64 each.
        """
        level, log_scale = (self.of_static[0] + static.double() @ self.of_static[1:]).unbind(dim=1)
        return level, log_scale.clamp(-_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE).exp()

    @property
    def reads(self) -> frozenset[str]:
        """The names of the block's fields that `step` reads and another component fills."""
        return _READS | ({"observed_inputs"} if self.past else frozenset())

    def spec(self) -> Mapping[str, Field]:
        """Return the fields: ``hidden``; ``cell`` only for an LSTM; ``expected`` only with a linear part."""
        field = Field("float32", (self.config.layers, self.config.hidden))
        fields = {"hidden": field} | ({"cell": field} if self.config.cell == "lstm" else {})
        return fields | ({"expected": Field("float32", (LINEAR_EXPERT_COUNT,))} if self.config.linear else {})

    def init(self, series: int) -> Arrays:
        """Return the learned initial state; ``expected`` is NaN, because nothing was forecast yet."""
        # Clone the initial state: it may share memory with the weights, and a step would overwrite them.
        own = self._arrays(*(part.detach().clone() for part in self.initial(series)))
        if self.config.linear:
            own["expected"] = np.full((series, LINEAR_EXPERT_COUNT), np.nan, np.float32)
        return own

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Step through the block, and write forecasts of values, not of changes, into ``out.forecast``."""
        x, experts, after = block_inputs(block, self.config.lags), None, {}
        season, steps = ring_season(self.config.ring, block.freq), block.out.forecast.shape[-1]
        horizons = trained_horizons(self.config.horizon, steps, season)
        if self.config.linear:
            changes = linear_forecasts(block, self.ridge.numpy(), season)
            expected = np.ascontiguousarray(changes[:LINEAR_EXPERT_COUNT, ..., 0])
            errors = expert_errors(block, own["expected"].T, expected)
            x, experts = np.concatenate([x, errors], axis=2), torch.from_numpy(changes[..., horizons])
            after["expected"] = _last_rows(expected, block.lengths)
        if self.covariates:
            x = with_covariates(x, block)
        hidden = _by_layer(own["hidden"])
        cell = _by_layer(own["cell"]) if "cell" in own else hidden[:0]
        known = torch.from_numpy(future_features(block, _ALL, steps)) if self.config.decoder else None
        with torch.inference_mode():
            if block.static.size:
                is_first = torch.from_numpy((block.observed[0] == 1) & ~np.isnan(block.values[0]))
                hidden = hidden + self._static_offset(torch.from_numpy(block.static)) * is_first[:, None]
            change, hidden, cell = self(
                torch.from_numpy(x), hidden, cell, block.lengths, experts, known=known, horizons=horizons
            )
            self._write_forecast(change, block)
        return self._arrays(hidden, cell) | after, block

    def _write_forecast(self, change: Tensor, block: Block) -> None:
        """Convert the forecast changes from units to values, and write the values into ``out.forecast``.

        The median stays within the range of past values, widened for every window ahead by the trend.
        """
        last, unit = (torch.from_numpy(part).unsqueeze(-1) for part in (block.last, block.unit))
        ahead = _ROOM * np.arange(1, block.out.forecast.shape[-1] + 1)
        low = (block.lowest - block.last)[:, :, None] - block.falls[:, :, None] * ahead
        high = (block.highest - block.last)[:, :, None] + block.rises[:, :, None] * ahead
        # Add the last value in float64: float32 would lose a change of 1 from a last value of a billion.
        out = torch.from_numpy(block.out.forecast)
        out.copy_(change).mul_(unit)
        middle = out[self.config.quantiles.index(0.5)]
        kept = torch.clamp(middle, torch.from_numpy(low), torch.from_numpy(high))
        out += kept.sub_(middle).add_(last)

    def _arrays(self, hidden: Tensor, cell: Tensor) -> Arrays:
        # Return views with the series as the first axis. In memory the layer stays the first axis, so that
        # `_by_layer` need not copy the arrays in the next step.
        both = {"hidden": hidden, "cell": cell} if len(cell) else {"hidden": hidden}
        return {name: part.numpy().swapaxes(0, 1) for name, part in both.items()}

    def forward(
        self,
        x: Tensor,
        hidden: Tensor,
        cell: Tensor,
        lengths: Ints | None = None,
        experts: Tensor | None = None,
        rows: slice = _ALL,
        known: Tensor | None = None,
        horizons: slice | Ints = _ALL,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Step all series through all windows, and return the forecasts issued at the windows in ``rows``.

        Args:
            x: ``[T, S, F]`` float32 inputs.
            hidden: ``[L, S, H]`` float32.
            cell: ``[L, S, H]`` float32 for an LSTM, ``[0, S, H]`` for other cells.
            lengths: ``[S]`` int64, from 1 to ``T``: the number of windows of each series, at least one of
                them ``T``; the rows after them are padding. By default every series has ``T``.
            experts: ``[K, n, S, N]`` float32, the linear experts' forecasts at ``rows``, as changes in units;
                0 by default.
            rows: the ``n`` windows to forecast from; all by default.
            known: ``[n, N, S or 1, C]`` float32, the features of the windows after each row, for the decoder;
                without them the decoder is not used.
            horizons: ``[N]`` indices, the trained horizon that each step uses in all parts but the decoder's;
                by default its own.

        Returns:
            Quantiles ``[Q, n, S, N]`` of the change from the last value in units, then the hidden and cell
            state of each series after its last window.
        """
        out, hidden, cell = self.recurrent(x, hidden, cell, lengths)
        top = self.dropout(out[rows])
        raw = self.head(top)
        # Make the parts contiguous: torch's softplus is 12 times slower on strided memory.
        parts = raw.view(*raw.shape[:2], -1, self.config.horizon).movedim(-2, 0)[..., horizons].contiguous()
        quantiles = len(self.config.quantiles)
        base = (parts[quantiles:].softmax(dim=0) * experts).sum(dim=0) if experts is not None else None
        own = parts[:quantiles] if known is None else parts[:quantiles] + self.decoder(top, known)
        return self._quantiles(own, base), hidden, cell

    def _quantiles(self, parts: Tensor, base: Tensor | None) -> Tensor:
        """Convert the head's outputs to quantiles that rise with their levels, and add the linear part.

        Args:
            parts: ``[Q, n, S, N]``, the head's outputs, plus the decoder's outputs if there is a decoder.
            base: ``[n, S, N]``, the weighted mean of the linear experts' forecasts; None adds nothing.
        """
        middle = self.config.quantiles.index(0.5)
        result = [parts[middle] if base is None else parts[middle] + base] * len(parts)
        for q in range(middle + 1, len(parts)):
            result[q] = result[q - 1] + F.softplus(parts[q])
        for q in range(middle - 1, -1, -1):
            result[q] = result[q + 1] - F.softplus(parts[q])
        return torch.stack(result)


def _last_rows(array: Floats32, lengths: Ints | None) -> Floats32:
    """Return, for each series, the ``K`` numbers that ``array`` holds for the last window of the series.

    ``array`` is ``[K, T, S]``, the result ``[S, K]``. ``lengths`` is the number of windows of each series;
    later windows are padding. If it is None, there is no padding.
    """
    if lengths is None:
        return array[:, -1].T.copy()
    return array[:, lengths - 1, np.arange(array.shape[2])].T.copy()


def _by_layer(array: np.ndarray) -> Tensor:
    """Swap the first two axes, series and layer; copy the array only if its layers are not contiguous.

    An array from `Network.step` has contiguous layers, so it is not copied.
    """
    layers = array.swapaxes(0, 1)
    return torch.from_numpy(layers if layers[0].flags.c_contiguous else np.ascontiguousarray(layers))
