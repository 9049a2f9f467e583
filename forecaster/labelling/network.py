"""The recurrent network with a head of labels: at every step, or for the whole sequence.

Letters: T steps, S sequences, F inputs, L layers, H hidden width, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from forecaster.components.network.recurrent import CELLS
from forecaster.labelling.config import LabelConfig
from forecaster.labelling.sequences import UNKNOWN

Carried = tuple[Tensor, ...]
"""Hidden state, and for an LSTM the cell state: ``[L, S, H]`` each."""


class LabelNetwork(nn.Module):
    """Stacked recurrent cells, and a linear head over the classes."""

    def __init__(self, config: LabelConfig, inputs: int, classes: int) -> None:
        super().__init__()
        self.config = config
        between = config.dropout if config.layers > 1 else 0.0
        self.recurrent = CELLS[config.cell](inputs, config.hidden, config.layers, dropout=between)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden, classes)

    def initial(self, series: int) -> Carried:
        """The state of sequences that have seen nothing: zeros."""
        parts = 2 if self.config.cell == "lstm" else 1
        return tuple(torch.zeros(self.config.layers, series, self.config.hidden) for _ in range(parts))

    def per_step(self, x: Tensor, carried: Carried) -> tuple[Tensor, Carried]:
        """``[T, S, F]`` to logits ``[T, S, K]``, each from its step and those before, and the state after."""
        state = carried if self.config.cell == "lstm" else carried[0]
        out, after = self.recurrent(x, state)
        return self.head(self.dropout(out)), after if isinstance(after, tuple) else (after,)

    def per_sequence(self, x: Tensor, lengths: Tensor) -> Tensor:
        """``[T, S, F]`` to logits ``[S, K]``; what follows the ``lengths`` ``[S]`` of each is unseen."""
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.recurrent(packed)[0])
        if self.config.pooling == "mean":
            pooled = hidden.sum(dim=0) / lengths[:, None]  # padding comes back as 0
        else:
            pooled = hidden[lengths - 1, torch.arange(len(lengths))]
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


def class_weights(labels: Tensor, classes: int, balance: float) -> Tensor:
    """``[K]`` what a step or sequence of each class weighs in the loss, 1 on average over those there are.

    Args:
        labels: any shape, int64, ``UNKNOWN`` among them.
        classes: K.
        balance: 0 gives all the same weight, 1 gives every class the same sum; between them, its power.
    """
    counts = torch.bincount(labels[labels != UNKNOWN], minlength=classes).double()
    weight = torch.where(counts > 0, counts.clamp(min=1) ** -balance, 0.0)
    total = (weight * counts).sum()
    return (weight * counts.sum() / total.clamp(min=1e-300)).float()


def label_loss(logits: Tensor, labels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted cross entropy, summed, and the sum of the weights that it is to be divided by.

    Args:
        logits: ``[..., K]``.
        labels: ``[...]`` int64; ``UNKNOWN`` counts for nothing.
        weight: ``[K]``.
    """
    flat, target = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    loss = F.cross_entropy(flat, target, weight, ignore_index=UNKNOWN, reduction="sum")
    known = target != UNKNOWN
    return loss, weight[target.clamp(min=0)][known].sum()
