"""The decoder: for any number of windows ahead, it computes a correction of the forecast head's outputs.

The network is an encoder-decoder (Cho et al. 2014, "Learning phrase representations using RNN
encoder-decoder for statistical machine translation", section 2): the recurrent layers, which have read the
past, are the encoder. The decoder makes one step for each window ahead. At each step it reads the known
features of that window and how far ahead it is. It reads no earlier forecast, so an error in one step does
not affect the others.

Letters: n rows, S series, H hidden width, N steps ahead, K known features, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from forecaster.arrays import Ints
from forecaster.components.network.random_parts import random_linear, random_recurrent, small_linear

_DISTANCES = 2  # two of the decoder's inputs encode how many windows ahead a step is


class Decoder(nn.Module):
    """A gated recurrent unit; one call computes its outputs for all issue times, series and horizons."""

    __call__: Callable[..., Tensor]  # Declare that a call returns a Tensor: torch declares Any.

    def __init__(self, width: int, known: int, quantiles: int, rng: torch.Generator) -> None:
        """Build a decoder with random weights from ``rng``.

        Args:
            width: H.
            known: K.
            quantiles: Q.
            rng: draws the initial weights.
        """
        super().__init__()
        self.begin = random_linear(width, width, rng)
        self.recurrent = random_recurrent("gru", _DISTANCES + known + width, width, rng)
        # With these small weights, an untrained decoder adds almost 0 to the output of the forecast head.
        self.out = small_linear(width, quantiles, rng)

    def forward(self, top: Tensor, known: Tensor) -> Tensor:
        """Return the decoder's output for each quantile and window ahead.

        The network adds this output to the output of its forecast head.

        Args:
            top: ``[n, S, H]`` float32, output of the last recurrent layer.
            known: ``[n, N, S or 1, K]`` float32, the features of the windows that follow each row.

        Returns:
            ``[Q, n, S, N]`` float32.
        """
        rows, series, width = top.shape
        steps = known.shape[1]
        summary = torch.tanh(self.begin(top))
        ahead = torch.arange(1, steps + 1, dtype=top.dtype)
        distance = torch.stack([ahead.log1p() / 4, 1 / ahead], dim=1)
        x = torch.cat(
            [
                distance[:, None, None].expand(steps, rows, series, _DISTANCES),
                known.movedim(1, 0).expand(steps, rows, series, known.shape[3]),
                summary.expand(steps, rows, series, width),
            ],
            dim=3,
        )
        begin = summary.reshape(1, rows * series, width)
        flow, _ = self.recurrent(x.reshape(steps, rows * series, -1), begin)
        parts: Tensor = self.out(flow).view(steps, rows, series, -1)
        return parts.permute(3, 1, 2, 0).contiguous()


def trained_horizons(learned: int, steps: int, season: int) -> slice | Ints:
    """Return, for each step ahead, the index of the trained horizon whose outputs the step uses.

    A step beyond the last trained horizon uses the latest trained horizon of the same seasonal phase.
    """
    if steps == learned:
        return slice(None)
    step = np.arange(steps)
    season = season if season <= learned else 1
    return np.where(step < learned, step, step - season * (-(-(step - learned + 1) // season)))
