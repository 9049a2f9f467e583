"""The recurrent layers of a network: they read the inputs and keep a state from window to window.

Letters: T windows, S series, F inputs, L layers, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from forecaster.arrays import Ints
from forecaster.components.network.random_parts import random_recurrent


class Recurrent(nn.ModuleList):
    """A list of recurrent layers with the same kind of cell; each layer is a separate module.

    Each layer after the first adds its input to its output (He et al. 2016, "Deep Residual Learning for Image
    Recognition").
    """

    # Declare that a call returns Tensors: torch declares Any.
    __call__: Callable[..., tuple[Tensor, Tensor, Tensor]]

    def __init__(self, cell: str, inputs: int, width: int, layers: int, rng: torch.Generator) -> None:
        """Build ``layers`` recurrent layers with weights from ``rng``; the first one reads the inputs."""
        sizes = [inputs, *[width] * (layers - 1)]
        super().__init__(random_recurrent(cell, size, width, rng) for size in sizes)

    def forward(
        self, x: Tensor, hidden: Tensor, cell: Tensor, lengths: Ints | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Step each series through its windows, not through padding; see `Network.forward` for the arguments.

        Returns:
            The output of the last layer ``[T, S, H]``, then the hidden and cell state of each series after
            its last window.
        """
        flow: Tensor | PackedSequence = x
        if lengths is not None:
            flow = pack_padded_sequence(x, torch.from_numpy(lengths), enforce_sorted=False)
        hiddens, cells = [], []
        for layer, recurrent in enumerate(self):
            part = slice(layer, layer + 1)
            state = (hidden[part], cell[part]) if isinstance(recurrent, nn.LSTM) else hidden[part]
            out, state = recurrent(flow, state)
            flow = _plus(out, flow) if layer else out
            if isinstance(state, tuple):
                hiddens.append(state[0])
                cells.append(state[1])
            else:
                hiddens.append(state)
        after = pad_packed_sequence(flow)[0] if isinstance(flow, PackedSequence) else flow
        return after, torch.cat(hiddens), torch.cat(cells) if cells else cell


def _plus(one: Tensor | PackedSequence, other: Tensor | PackedSequence) -> Tensor | PackedSequence:
    """Return the sum of two tensors, or of two packed sequences of the same lengths."""
    if isinstance(one, PackedSequence):
        return one._replace(data=one.data + cast("PackedSequence", other).data)
    return one + cast("Tensor", other)
