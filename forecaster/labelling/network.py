"""The recurrent network of a labeller: it scores each class at every step, or for a whole sequence.

Letters: T steps, S sequences, F inputs, L layers, H hidden width, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from forecaster.components.network.random_parts import CELLS
from forecaster.labelling.config import LabelConfig
from forecaster.labelling.sequences import UNKNOWN

Carried = tuple[Tensor, ...]
"""Hidden state, and for an LSTM the cell state: ``[L, S, H]`` each."""


class LabelNetwork(nn.Module):
    """Recurrent layers, and a linear head with one logit for each class."""

    def __init__(self, config: LabelConfig, inputs: int, classes: int) -> None:
        super().__init__()
        self.config = config
        between = config.dropout if config.layers > 1 else 0.0
        self.recurrent = CELLS[config.cell](inputs, config.hidden, config.layers, dropout=between)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden, classes)

    def initial(self, series: int) -> Carried:
        """Return the state of the layers before the first step: zeros."""
        parts = 2 if self.config.cell == "lstm" else 1
        return tuple(torch.zeros(self.config.layers, series, self.config.hidden) for _ in range(parts))

    def per_step(self, x: Tensor, carried: Carried) -> tuple[Tensor, Carried]:
        """Return the logits of the classes at every step, and the state of the layers after the last step.

        The inputs are ``[T, S, F]``, and the logits ``[T, S, K]``.

        The logits of a step depend on the step and on earlier steps only.
        """
        state = carried if self.config.cell == "lstm" else carried[0]
        out, after = self.recurrent(x, state)
        return self.head(self.dropout(out)), after if isinstance(after, tuple) else (after,)

    def per_sequence(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits of the classes for each sequence; the padding after a sequence has no effect.

        The logits are ``[S, K]``.

        Args:
            x: inputs ``[T, S, F]``.
            lengths: ``[S]``, number of steps of each sequence.
        """
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.recurrent(packed)[0])
        if self.config.pooling == "mean":
            # Hidden states are 0 in the padding after a sequence, so the padding adds nothing to the sum.
            pooled = hidden.sum(dim=0) / lengths[:, None]
        else:
            pooled = hidden[lengths - 1, torch.arange(len(lengths))]
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


def class_weights(labels: Tensor, classes: int, balance: float) -> Tensor:
    """Return the weight of each class in the loss; the mean of the weights over all known labels is 1.

    The weights are ``[K]``.

    Args:
        labels: any shape, int64; ``UNKNOWN`` is ignored.
        classes: K.
        balance: 0 gives equal weights; 1 gives each class the same sum of weights; between them, a power of
            the counts.
    """
    counts = torch.bincount(labels[labels != UNKNOWN], minlength=classes).double()
    weight = torch.where(counts > 0, counts.clamp(min=1) ** -balance, 0.0)
    total = (weight * counts).sum()
    return (weight * counts.sum() / total.clamp(min=1e-300)).float()


def label_loss(logits: Tensor, labels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted cross entropy summed over the labels, and the sum of their weights.

    Args:
        logits: ``[..., K]``.
        labels: ``[...]`` int64; ``UNKNOWN`` is ignored.
        weight: ``[K]``.
    """
    flat, target = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    loss = F.cross_entropy(flat, target, weight, ignore_index=UNKNOWN, reduction="sum")
    is_known = target != UNKNOWN
    return loss, weight[target.clamp(min=0)][is_known].sum()
