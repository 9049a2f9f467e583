"""The recurrent network that all series share.

Letters: T windows, n rows of them, S series, F inputs, L layers, H hidden width, K experts, N horizon,
Q quantiles, C known features of a window, D static ones of a series.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forecaster.arrays import Arrays, Floats32, Ints
from forecaster.components.base import Block, Field
from forecaster.components.network.decoder import Decoder
from forecaster.components.network.inputs import (
    block_inputs,
    expert_errors,
    input_count,
    known_ahead,
    with_covariates,
)
from forecaster.components.network.log_ridge import ALL_EXPERTS, ALL_RIDGES, all_forecasts
from forecaster.components.network.recurrent import Recurrent
from forecaster.components.network.ridge import EXPERTS, RIDGES, regressor_count
from forecaster.components.observed_covariates import INPUTS_EACH
from forecaster.components.season import season_in
from forecaster.config import NetworkConfig

_ALL = slice(None)
_TRUST_IN_RIDGES = 1.5  # two of seven experts get 64 % of the weight at first
_LARGEST_LOG_SCALE = 345.0  # features far from those learned from; about 1e150, with room for a square
_ROOM = 2.0  # times as far as a series usually goes beyond all values seen, a median may


class Network(nn.Module):
    """A stacked recurrent network with a learned first state that weighs linear forecasts and adds to them.

    It works on level-free inputs and answers in the unit of each series: how far from the last value. The
    median of a horizon is a weighted mean of what linear experts forecast
    (`forecaster.components.network.ridge`)
    plus a change of the network's own; without a linear part, that change alone. Every further quantile is
    the next one inside plus or minus a softplus, so that quantiles cannot cross (Gasthaus et al. 2019,
    "Probabilistic Forecasting with Spline Quantile Function RNNs", section 3).

    As a component of a state it owns ``hidden`` and, for an LSTM, ``cell``: ``[S, L, H]`` float32; and, with
    a linear part, ``expected``: ``[S, K]`` float32, the change in units that each expert forecast for the
    next window.

    With a decoder, what that says of each step is added to the parts of every quantile, and any number of
    steps can be asked for: of those beyond the horizon the other parts repeat the last season. With static
    features a series' first state is a learned map of them, and a whole trajectory can be had without any
    value (`cold`).

    Attributes:
        ridge: buffer ``[3, F, N]`` float32, the ridge regressions; no rows without a linear part.
        prior: buffer, scale of a series of one value, as a share of it.
        of_static: buffer ``[1 + D, 2]`` float64, the ridge regression of level and log scale on 1 and the
            static features; no columns without any.
    """

    name = "network"
    format_version = 2
    ridge: Tensor
    prior: Tensor
    of_static: Tensor

    def __init__(
        self,
        config: NetworkConfig,
        dropout: float = 0.0,
        known: int = 0,
        static: int = 0,
        past: tuple[str, ...] = (),
    ) -> None:
        """Of windows with ``known`` C features, series with ``static`` D ones, and ``past`` covariates."""
        super().__init__()
        self.config, self.past = config, past
        self.covariates = known + static + INPUTS_EACH * len(past)
        width, experts = config.hidden, ALL_EXPERTS if config.linear else 0
        self.recurrent = Recurrent(config.cell, input_count(config, self.covariates), width, config.layers)
        self.dropout = nn.Dropout(dropout)
        # One block a quantile, and one an expert.
        self.head = nn.Linear(width, (len(config.quantiles) + experts) * config.horizon)
        self.hidden0 = nn.Parameter(torch.zeros(config.layers, width))
        self.cell0 = nn.Parameter(torch.zeros(config.layers if config.cell == "lstm" else 0, width))
        nn.init.normal_(self.head.weight, std=1e-2)  # starts as the linear part, or as persistence
        nn.init.zeros_(self.head.bias)
        if experts:
            blocks = self.head.bias.detach().view(-1, config.horizon)
            blocks[len(config.quantiles) : len(config.quantiles) + RIDGES] = _TRUST_IN_RIDGES
        ridges = ALL_RIDGES if config.linear else 0
        self.register_buffer("ridge", torch.zeros(ridges, regressor_count(config.ring), config.horizon))
        self.register_buffer("prior", torch.zeros(()))
        if config.decoder:
            self.decoder = Decoder(width, known, len(config.quantiles))
        if static:
            self.begin = nn.Linear(static, config.layers * width, bias=False)
            nn.init.zeros_(self.begin.weight)
            self.register_buffer("of_static", torch.zeros(1 + static, 2, dtype=torch.float64))

    def initial(self, series: int, static: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The learned state of series not seen before: hidden and cell ``[L, S, H]`` (cell ``[0, S, H]``).

        Args:
            series: S.
            static: ``[S, D]`` float32, their features; by default what is the same for all.
        """
        hidden = self.hidden0.unsqueeze(1).expand(-1, series, -1)
        if static is not None and static.shape[1]:
            hidden = hidden + self._begun(static)
        return hidden.contiguous(), self.cell0.unsqueeze(1).expand(-1, series, -1).contiguous()

    def _begun(self, static: Tensor) -> Tensor:
        """``[L, S, H]``, what a series' features add to its first state."""
        made: Tensor = self.begin(static)
        return made.view(len(static), self.config.layers, -1).movedim(1, 0)

    def cold(self, static: Tensor, known: Tensor) -> Tensor:
        """Forecasts of series without a value, in scales from the level that their features say.

        Args:
            static: ``[S, D]`` float32.
            known: ``[n, N, S or 1, C]`` float32, of the windows to forecast, as many as are wanted, after
                each of ``n`` beginnings.

        Returns:
            Quantiles ``[Q, n, S, N]``; see `level_and_scale`.
        """
        hidden, _ = self.initial(len(static), static)
        # Each layer adds its input to its output: the last one's is the sum of them all.
        top = hidden.sum(dim=0).expand(len(known), -1, -1)
        return self._quantiles(self.decoder(top, known), None)

    def level_and_scale(self, static: Tensor) -> tuple[Tensor, Tensor]:
        """``[S]`` float64 each, of series with features ``[S, D]`` and without a value."""
        level, log_scale = (self.of_static[0] + static.double() @ self.of_static[1:]).unbind(dim=1)
        return level, log_scale.clamp(-_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE).exp()

    def spec(self) -> Mapping[str, Field]:
        """``hidden``, ``cell`` where the cell has one, and ``expected`` where there is a linear part."""
        field = Field("float32", (self.config.layers, self.config.hidden))
        fields = {"hidden": field} | ({"cell": field} if self.config.cell == "lstm" else {})
        return fields | ({"expected": Field("float32", (EXPERTS,))} if self.config.linear else {})

    def init(self, series: int) -> Arrays:
        """The learned initial state; nothing is expected."""
        # Of one series `initial` is the weights' own memory, into which a state must never write.
        own = self._arrays(*(part.detach().clone() for part in self.initial(series)))
        return own | (
            {"expected": np.full((series, EXPERTS), np.nan, np.float32)} if self.config.linear else {}
        )

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Fills ``out.forecast``, in the unit of each series."""
        x, experts, after = block_inputs(block, self.config.lags), None, {}
        season, steps = season_in(self.config.ring, block.freq), block.out.forecast.shape[-1]
        horizons = _horizons(self.config.horizon, steps, season)
        if self.config.linear:
            changes = all_forecasts(block, self.ridge.numpy(), season)
            expected = np.ascontiguousarray(changes[:EXPERTS, ..., 0])
            errors = expert_errors(block, own["expected"].T, expected)
            x, experts = np.concatenate([x, errors], axis=2), torch.from_numpy(changes[..., horizons])
            after["expected"] = _at_the_end(expected, block.lengths)
        if self.covariates:
            x = with_covariates(x, block)
        hidden = _by_layer(own["hidden"])
        cell = _by_layer(own["cell"]) if "cell" in own else hidden[:0]
        known = torch.from_numpy(known_ahead(block, _ALL, steps)) if self.config.decoder else None
        with torch.inference_mode():
            if block.static.size:
                begins = torch.from_numpy((block.observed[0] == 1) & ~np.isnan(block.values[0]))
                hidden = hidden + self._begun(torch.from_numpy(block.static)) * begins[:, None]
            change, hidden, cell = self(
                torch.from_numpy(x), hidden, cell, block.lengths, experts, known=known, horizons=horizons
            )
            self._write(change, block)
        return self._arrays(hidden, cell) | after, block

    def _write(self, change: Tensor, block: Block) -> None:
        """Forecasts from changes in units; a median stays within what was seen, but for a trend."""
        last, unit = (torch.from_numpy(part).unsqueeze(-1) for part in (block.last, block.unit))
        ahead = _ROOM * np.arange(1, block.out.forecast.shape[-1] + 1)
        low = (block.lowest - block.last)[:, :, None] - block.falls[:, :, None] * ahead
        high = (block.highest - block.last)[:, :, None] + block.rises[:, :, None] * ahead
        # Levels in float64: a meter that stands at a billion still moves by single units.
        out = torch.from_numpy(block.out.forecast)
        out.copy_(change).mul_(unit)
        middle = out[self.config.quantiles.index(0.5)]
        kept = torch.clamp(middle, torch.from_numpy(low), torch.from_numpy(high))
        out += kept.sub_(middle).add_(last)

    def _arrays(self, hidden: Tensor, cell: Tensor) -> Arrays:
        # Views: the numbers stay layer by layer, as the next step wants them.
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
        """Steps every series through every window of ``x``.

        Args:
            x: ``[T, S, F]`` float32 inputs.
            hidden: ``[L, S, H]`` float32.
            cell: ``[L, S, H]`` float32 for an LSTM, ``[0, S, H]`` for the others.
            lengths: ``[S]`` int64, from 1 to ``T``: windows of each series, the largest being ``T``; what
                follows them is padding. All have all ``T`` by default.
            experts: ``[K, n, S, N]`` float32, changes that the linear experts forecast at the rows; 0 by
                default.
            rows: the ``n`` of the windows to forecast from.
            known: ``[n, N, S or 1, C]`` float32, features of the windows after each row, for a decoder;
                nothing is decoded by default.
            horizons: ``[N]`` indices, which of the horizons learned stands for each step in all other parts;
                each for itself by default.

        Returns:
            Quantiles ``[Q, n, S, N]`` of the change from the last value in units, then the hidden and cell
            state of each series after its last window.
        """
        out, hidden, cell = self.recurrent(x, hidden, cell, lengths)
        top = self.dropout(out[rows])
        raw = self.head(top)
        # Each part in one piece: on strided memory torch's softplus goes number by number, 12 times slower.
        parts = raw.view(*raw.shape[:2], -1, self.config.horizon).movedim(-2, 0)[..., horizons].contiguous()
        quantiles = len(self.config.quantiles)
        base = (parts[quantiles:].softmax(dim=0) * experts).sum(dim=0) if experts is not None else None
        own = parts[:quantiles] if known is None else parts[:quantiles] + self.decoder(top, known)
        return self._quantiles(own, base), hidden, cell

    def _quantiles(self, parts: Tensor, base: Tensor | None) -> Tensor:
        """``[Q, n, S, N]`` as they leave the head -> rising along Q, around what the experts say."""
        middle = self.config.quantiles.index(0.5)
        result = [parts[middle] if base is None else parts[middle] + base] * len(parts)
        for q in range(middle + 1, len(parts)):
            result[q] = result[q - 1] + F.softplus(parts[q])
        for q in range(middle - 1, -1, -1):
            result[q] = result[q + 1] - F.softplus(parts[q])
        return torch.stack(result)

    def __call__(
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
        """See `forward`."""
        given = (x, hidden, cell, lengths, experts, rows, known, horizons)
        return cast("tuple[Tensor, Tensor, Tensor]", super().__call__(*given))


def _horizons(learned: int, steps: int, season: int) -> slice | Ints:
    """Which of the horizons that were learned stands for each step: itself, or the last of the same phase."""
    if steps == learned:
        return _ALL
    step = np.arange(steps)
    season = season if season <= learned else 1
    return np.where(step < learned, step, step - season * (-(-(step - learned + 1) // season)))


def _at_the_end(array: Floats32, lengths: Ints | None) -> Floats32:
    """``[K, T, S]`` -> ``[S, K]``, of each series' last row that is no padding."""
    if lengths is None:
        return array[:, -1].T.copy()
    return array[:, lengths - 1, np.arange(array.shape[2])].T.copy()


def _by_layer(array: np.ndarray) -> Tensor:
    """``[S, L, H]`` -> ``[L, S, H]``; what `Network.step` returned before is not copied."""
    layers = array.swapaxes(0, 1)
    return torch.from_numpy(layers if layers[0].flags.c_contiguous else np.ascontiguousarray(layers))
