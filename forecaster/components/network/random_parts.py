"""Initial weights and dropout of a network, drawn from the random generator of one training.

torch's layers draw from one generator for the whole process, so two trainings in one process would change
each other's weights. To prevent this, layers are built on the device ``meta``, where torch draws nothing.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
}
_Layer = TypeVar("_Layer", bound=nn.Module)


class Dropout(nn.Module):
    """Sets elements of a tensor to 0 at random in training, and enlarges the others, as `nn.Dropout` does."""

    def __init__(self, rate: float, rng: torch.Generator) -> None:
        """Set up dropout: elements become 0 with probability ``rate`` (0 to below 1), drawn from ``rng``."""
        super().__init__()
        self.rate, self.rng = rate, rng

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, of any shape, with dropout in training and unchanged otherwise."""
        if not self.training or self.rate == 0.0:
            return x
        is_kept = torch.empty_like(x).bernoulli_(1.0 - self.rate, generator=self.rng)
        return x * is_kept.div_(1.0 - self.rate)


def random_linear(inputs: int, outputs: int, rng: torch.Generator, bias: bool = True) -> nn.Linear:
    """Return a linear layer with weights drawn from ``rng``, distributed as torch's own initial weights."""
    layer = _on_cpu(nn.Linear(inputs, outputs, bias=bias, device="meta"))
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=rng)
    if bias:
        bound = 1.0 / math.sqrt(inputs)
        nn.init.uniform_(layer.bias, -bound, bound, generator=rng)
    return layer


def small_linear(inputs: int, outputs: int, rng: torch.Generator) -> nn.Linear:
    """Return a linear layer with small weights and a bias of 0: before training, its outputs are almost 0."""
    # `random_linear` draws a weight and a bias, and the next lines overwrite both.
    # Keep these draws, because they advance ``rng``: without them, a seed would give other weights than
    # in version 0.1.
    layer = random_linear(inputs, outputs, rng)
    nn.init.normal_(layer.weight, std=1e-2, generator=rng)
    nn.init.zeros_(layer.bias)
    return layer


def random_recurrent(cell: str, inputs: int, width: int, rng: torch.Generator) -> nn.RNNBase:
    """Return a recurrent layer with weights from ``rng``, distributed as torch's own initial weights.

    The kind of ``cell`` is a key of `CELLS`.
    """
    layer: nn.RNNBase = _on_cpu(CELLS[cell](inputs, width, device="meta"))
    bound = 1.0 / math.sqrt(width)
    for weight in layer.parameters():
        nn.init.uniform_(weight, -bound, bound, generator=rng)
    return layer


def _on_cpu(layer: _Layer) -> _Layer:
    """Replace the weights of a layer that was built on the device ``meta`` by unset weights on the CPU.

    `nn.Module.to_empty` does this too, but imports SymPy, which takes half a second in each process.
    """
    for name, weight in [*layer.named_parameters()]:
        setattr(layer, name, nn.Parameter(torch.empty(weight.shape)))
    return layer
