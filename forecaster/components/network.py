"""The recurrent network that all series share.

Letters: T windows, S series, F inputs, L layers, H hidden width, N horizon, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from forecaster.components.base import Arrays, Block, Field, Ints
from forecaster.components.inputs import block_inputs, input_count
from forecaster.config import NetworkConfig

_CELLS: dict[str, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
}


class Network(nn.Module):
    """A stacked recurrent network with a learned initial state and quantile heads.

    It works on level-free inputs and answers in the same unit: change from the last value, divided by the
    series' scale. The median of a horizon is a change times a gate, so that a series that often stands
    still (visibility on a clear day) can be forecast to stay exactly where it is; every further quantile
    is the next one inside plus or minus a softplus, so that quantiles cannot cross (Gasthaus et al. 2019,
    "Probabilistic Forecasting with Spline Quantile Function RNNs", section 3).

    As a component of a state it owns ``hidden`` and, for an LSTM, ``cell``: ``[S, L, H]`` float32.
    """

    name = "network"
    format_version = 1

    def __init__(self, config: NetworkConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        inputs = input_count(config)
        self.recurrent = _CELLS[config.cell](inputs, config.hidden, config.layers)
        self.dropout = nn.Dropout(dropout)
        outputs = (len(config.quantiles) + 1) * config.horizon  # one block a quantile, and the gate
        self.head = nn.Linear(config.hidden, outputs)
        # A linear path past the cells: what a plain autoregression could do need not go through them.
        self.skip = nn.Linear(inputs, outputs, bias=False)
        self.hidden0 = nn.Parameter(torch.zeros(config.layers, config.hidden))
        self.cell0 = nn.Parameter(torch.zeros(config.layers if config.cell == "lstm" else 0, config.hidden))
        nn.init.normal_(self.head.weight, std=1e-2)  # starts as persistence: every change forecast is near 0
        nn.init.zeros_(self.head.bias)
        nn.init.zeros_(self.skip.weight)

    def initial(self, series: int) -> tuple[Tensor, Tensor]:
        """The learned state of series not seen before: hidden and cell ``[L, S, H]`` (cell ``[0, S, H]``)."""
        return (
            self.hidden0.unsqueeze(1).expand(-1, series, -1).contiguous(),
            self.cell0.unsqueeze(1).expand(-1, series, -1).contiguous(),
        )

    def spec(self) -> Mapping[str, Field]:
        """``hidden``, and ``cell`` where the cell has one."""
        field = Field("float32", (self.config.layers, self.config.hidden))
        return {"hidden": field, "cell": field} if self.config.cell == "lstm" else {"hidden": field}

    def init(self, series: int) -> Arrays:
        """The learned initial state."""
        # Of one series `initial` is the weights' own memory, into which a state must never write.
        return self._arrays(*(part.detach().clone() for part in self.initial(series)))

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Fills ``out.forecast``, in the unit of each series."""
        x = torch.from_numpy(block_inputs(block, self.config.lags))
        hidden = _by_layer(own["hidden"])
        cell = _by_layer(own["cell"]) if "cell" in own else hidden[:0]
        with torch.inference_mode():
            change, hidden, cell = self(x, hidden, cell, block.lengths)
            # Levels in float64: a meter that stands at a billion still moves by single units.
            scale, last = (torch.from_numpy(part).unsqueeze(-1) for part in (block.scale, block.last))
            torch.from_numpy(block.out.forecast).copy_(change).mul_(scale).add_(last)
        return self._arrays(hidden, cell), block

    def _arrays(self, hidden: Tensor, cell: Tensor) -> Arrays:
        # Views: the numbers stay layer by layer, as the next step wants them.
        both = {"hidden": hidden, "cell": cell} if len(cell) else {"hidden": hidden}
        return {name: part.numpy().swapaxes(0, 1) for name, part in both.items()}

    def forward(
        self, x: Tensor, hidden: Tensor, cell: Tensor, lengths: Ints | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Steps every series through every window of ``x``.

        Args:
            x: ``[T, S, F]`` float32 inputs.
            hidden: ``[L, S, H]`` float32.
            cell: ``[L, S, H]`` float32 for an LSTM, ``[0, S, H]`` for the others.
            lengths: ``[S]`` int64, from 1 to ``T``: windows of each series, the largest being ``T``; what
                follows them is padding. All have all ``T`` by default.

        Returns:
            Quantiles ``[Q, T, S, N]`` of the change from the last value over the scale, then the hidden and
            cell state of each series after its last window.
        """
        packed: Tensor | PackedSequence = x
        if lengths is not None:
            packed = pack_padded_sequence(x, torch.from_numpy(lengths), enforce_sorted=False)
        if self.config.cell == "lstm":
            out, (hidden, cell) = self.recurrent(packed, (hidden, cell))
        else:
            out, hidden = self.recurrent(packed, hidden)
        if lengths is not None:
            out, _ = pad_packed_sequence(out)
        raw = self.head(self.dropout(out)) + self.skip(x)
        return self._quantiles(raw), hidden, cell

    def _quantiles(self, raw: Tensor) -> Tensor:
        """``[T, S, (Q + 1) * N]`` as it leaves the head -> ``[Q, T, S, N]``, rising along Q."""
        levels = self.config.quantiles
        # Each part in one piece: on strided memory torch's softplus goes number by number, 12 times slower.
        parts = raw.view(*raw.shape[:2], len(levels) + 1, self.config.horizon).movedim(-2, 0).contiguous()
        middle = levels.index(0.5)
        result = [parts[middle] * torch.sigmoid(parts[-1])] * len(levels)
        for q in range(middle + 1, len(levels)):
            result[q] = result[q - 1] + F.softplus(parts[q])
        for q in range(middle - 1, -1, -1):
            result[q] = result[q + 1] - F.softplus(parts[q])
        return torch.stack(result)

    def __call__(
        self, x: Tensor, hidden: Tensor, cell: Tensor, lengths: Ints | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `forward`."""
        return cast("tuple[Tensor, Tensor, Tensor]", super().__call__(x, hidden, cell, lengths))


def _by_layer(array: np.ndarray) -> Tensor:
    """``[S, L, H]`` -> ``[L, S, H]``; what `Network.step` returned before is not copied."""
    return torch.from_numpy(np.ascontiguousarray(array.swapaxes(0, 1)))


def pinball_loss(quantiles: Tensor, target: Tensor, levels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean pinball loss over what was observed (Koenker & Bassett 1978).

    Args:
        quantiles: ``[Q, ...]`` forecasts.
        target: ``[...]`` what came; NaN where nothing did.
        levels: ``[Q]`` quantile levels.
        weight: of each error, in a shape that broadcasts against ``target``; 1 by default.

    Returns:
        A scalar; 0 where nothing was observed.
    """
    known = ~torch.isnan(target)
    error = torch.where(known, target, 0.0) - quantiles
    level = levels.view(-1, *[1] * target.dim())
    loss = torch.maximum(level * error, (level - 1) * error)
    loss = loss * known if weight is None else loss * known * weight
    return loss.sum() / (known.sum().clamp(min=1) * len(levels))
