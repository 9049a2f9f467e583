"""Train a labeller on whole sequences, or on segments of steps; the state is carried from segment to segment.

Letters: T steps, S sequences, F inputs, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from forecaster.arrays import Floats32, Ints
from forecaster.labelling import inputs
from forecaster.labelling.config import LabelConfig
from forecaster.labelling.model import Labeller, Task, untrained
from forecaster.labelling.network import LabelNetwork, class_weights, label_loss
from forecaster.labelling.scores import weekly_threshold
from forecaster.labelling.sequences import (
    TRAIN,
    UNKNOWN,
    VALIDATION,
    Sequences,
    split_by_time,
    split_stratified,
)
from forecaster.threads import compute_threads
from schemas.errors import ConfigError, DataError

Epoch = dict[str, float]
_CLIP_NORM = 1.0


@dataclass(frozen=True)
class TrainedLabeller:
    """The result of training: a labeller, its losses by epoch, and what each sequence or step was used for.

    Attributes:
        labeller: the weights of the epoch with the lowest validation loss.
        history: per epoch ``epoch, train_loss, validation_loss, seconds`` (weighted cross entropy).
        parts: ``[S]``, or ``[T, S]`` for steps: ``TRAIN``, ``VALIDATION``, ``TEST``, or -1 for no part.
    """

    labeller: Labeller
    history: list[Epoch]
    parts: Ints


def train_labeller(
    sequences: Sequences,
    config: LabelConfig | None = None,
    split: Ints | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> TrainedLabeller:
    """Train a network that labels each sequence, or each step of a sequence if the steps have labels.

    Sequences are split within each class, steps by time. Weights and scaling are learned from the training
    part only, so never from later steps or from a held-out sequence. The same seed, machine and number of
    threads give the same weights.

    Args:
        sequences: labelled sequences.
        config: settings of shape and training.
        split: ``[S]`` part of each sequence, if the data specifies it. If it has no validation sequences,
            ``config.validation`` of the training sequences are used. Not allowed for steps.
        on_epoch: called after every epoch.

    Raises:
        DataError: there are too few labels to learn from or to validate.
        ConfigError: the scaling does not suit the labels, or ``split`` is given for steps.
    """
    config = config or LabelConfig()
    parts = _parts(sequences, config, split)
    labels = np.where(parts == TRAIN, sequences.labels, UNKNOWN)
    present = np.unique(labels[labels != UNKNOWN])
    if len(present) < 2:
        raise DataError(
            f"the training part has {len(present)} of the {len(sequences.classes)} labels, but training "
            "needs at least 2: give more sequences, or a longer history, or smaller shares for validation "
            "and test"
        )
    if not (sequences.labels[parts == VALIDATION] != UNKNOWN).any():
        raise DataError(
            "the validation part has no label, so no epoch can be scored: give more "
            "sequences, or a longer history"
        )
    task = _task(sequences, config, parts)
    # Seed the process's random generator here, because dropout between recurrent layers can use no other.
    # Restore the state of the process's random generator after the training.
    with compute_threads(config.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = untrained(config, task)
        fit = (
            _SegmentBatches(sequences, parts, Labeller(config, task, network))
            if sequences.is_per_step
            else _SequenceBatches(sequences, parts, Labeller(config, task, network))
        )
        network.requires_grad_(True)
        weight = class_weights(torch.from_numpy(labels), len(sequences.classes), config.balance)
        history = _fit(network, fit, weight, config, on_epoch)
    labeller = Labeller(config, task, network)
    if sequences.is_per_step:
        labeller = _with_threshold(labeller, sequences, parts)
    return TrainedLabeller(labeller, history, parts)


def _parts(sequences: Sequences, config: LabelConfig, split: Ints | None) -> Ints:
    """Assign each sequence, or each step, to training, validation, test or none of them.

    The result is `TrainedLabeller.parts`.
    """
    if sequences.is_per_step:
        if split is not None:
            raise ConfigError(
                "a split column is only for labels of whole sequences: remove it, because labels of steps "
                "are split by time"
            )
        return split_by_time(sequences, (config.validation, config.test))
    if split is None:
        return split_stratified(sequences.labels, (config.validation, config.test), config.seed)
    parts = np.where(sequences.labels == UNKNOWN, UNKNOWN, split)
    if not (parts == VALIDATION).any():
        is_train = parts == TRAIN
        training_labels = np.where(is_train, sequences.labels, UNKNOWN)
        within_training = split_stratified(training_labels, (config.validation, 0.0), config.seed)
        parts = np.where(is_train, within_training, parts)
    return parts


def _task(sequences: Sequences, config: LabelConfig, parts: Ints) -> Task:
    """Return the labeller's task, with mean, std and background class computed from the training part.

    Raises:
        ConfigError: the scaling does not suit the labels.
    """
    scaling = config.scaling or ("running" if sequences.is_per_step else "train")
    if scaling == "running" and not sequences.is_per_step:
        raise ConfigError("scaling = running is only for labels of steps: set scaling to train or series")
    if scaling == "series" and sequences.is_per_step:
        raise ConfigError("scaling = series is only for labels of sequences: set scaling to running or train")
    is_train = (parts == TRAIN) & sequences.step_mask()
    empty = np.empty(0)
    mean, std = inputs.mean_and_std(sequences.values[is_train]) if scaling == "train" else (empty, empty)
    training_labels = sequences.labels[(parts == TRAIN) & (sequences.labels != UNKNOWN)]
    return Task(
        of="step" if sequences.is_per_step else "sequence",
        channels=sequences.channels,
        classes=sequences.classes,
        scaling=scaling,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        freq_s=sequences.freq_s,
        background=int(np.bincount(training_labels).argmax()) if sequences.is_per_step else 0,
    )


class _SequenceBatches:
    """Batches of whole sequences, which may differ in length; sequences are drawn in random order."""

    def __init__(self, sequences: Sequences, parts: Ints, labeller: Labeller) -> None:
        self._x = torch.from_numpy(labeller.sequence_inputs(sequences.values))
        self._lengths = torch.from_numpy(sequences.lengths)
        self._labels = torch.from_numpy(sequences.labels)
        self._index = {part: torch.from_numpy(np.flatnonzero(parts == part)) for part in (TRAIN, VALIDATION)}
        self._batch = labeller.config.batch

    def batches(self, network: LabelNetwork, part: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Divide the sequences of a part into random batches; yield the logits and labels of each batch."""
        index = self._index[part]
        for chosen in torch.split(index[torch.randperm(len(index))], self._batch):
            lengths = self._lengths[chosen]
            x = self._x[: int(lengths.max()), chosen]
            yield network.per_sequence(x, lengths), self._labels[chosen]


class _SegmentBatches:
    """Yields batches for sequences with a label per step: a batch is one segment of a group of sequences.

    A group steps through its segments in order, and the network's state is carried from segment to segment.
    """

    def __init__(self, sequences: Sequences, parts: Ints, labeller: Labeller) -> None:
        x, _ = labeller.step_inputs(labeller.initial_state(sequences.start), sequences.values)
        self._x = torch.from_numpy(x)
        self._labels = {
            part: torch.from_numpy(np.where(parts == part, sequences.labels, UNKNOWN))
            for part in (TRAIN, VALIDATION)
        }
        # For training and for validation: the index after the last step that belongs to it in any sequence.
        # `batches` computes no later steps.
        self._stop = {
            part: int(np.flatnonzero((parts == part).any(axis=1)).max()) + 1 for part in self._labels
        }
        self._config = labeller.config

    def batches(self, network: LabelNetwork, part: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the logits and the labels of each segment, for one group of series after another.

        Labels of other parts are ``UNKNOWN``; segments without a label of the part are not yielded.
        """
        config, labels = self._config, self._labels[part]
        for series in torch.split(torch.randperm(self._x.shape[1]), config.batch):
            carried = network.initial(len(series))
            for first in range(0, self._stop[part], config.segment):
                segment = slice(first, min(first + config.segment, self._stop[part]))
                logits, carried = network.per_step(self._x[segment, series], carried)
                carried = tuple(piece.detach() for piece in carried)
                own = labels[segment, series]
                if (own != UNKNOWN).any():
                    yield logits, own


def _fit(
    network: LabelNetwork,
    data: _SequenceBatches | _SegmentBatches,
    weight: Tensor,
    config: LabelConfig,
    on_epoch: Callable[[Epoch], None],
) -> list[Epoch]:
    """Train for ``epochs`` epochs; stop earlier if the validation loss does not fall for ``patience`` epochs.

    The network has the weights of the best epoch at the end. Returns the history of the epochs.
    """
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=config.patience // 3
    )
    history: list[Epoch] = []
    best_weights, lowest, epochs_without_gain = _weights(network), float("inf"), 0
    for number in range(1, config.epochs + 1):
        began = time.monotonic()
        network.train()
        total, count = 0.0, 0.0
        for logits, labels in data.batches(network, TRAIN):
            loss, weights_sum = label_loss(logits, labels, weight)
            optimizer.zero_grad()
            (loss / weights_sum).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), _CLIP_NORM)
            optimizer.step()
            total, count = total + loss.item(), count + weights_sum.item()
        validation = _validate(network, data, weight)
        if not np.isfinite([total, validation]).all():
            raise DataError(
                f"training stopped in epoch {number}: its loss is not finite: lower the learning rate"
            )
        seconds = time.monotonic() - began
        epoch = {
            "epoch": number, "train_loss": total / count, "validation_loss": validation, "seconds": seconds
        }  # fmt: skip
        history.append(epoch)
        on_epoch(epoch)
        schedule.step(validation)
        epochs_without_gain += 1
        if validation < lowest:
            best_weights, lowest, epochs_without_gain = _weights(network), validation, 0
        if epochs_without_gain >= config.patience:
            break
    network.load_state_dict(best_weights)
    return history


@torch.no_grad()
def _validate(network: LabelNetwork, data: _SequenceBatches | _SegmentBatches, weight: Tensor) -> float:
    """Return the mean loss on the validation part, weighted by class; infinity if the part has no label."""
    network.eval()
    total, count = 0.0, 0.0
    for logits, labels in data.batches(network, VALIDATION):
        loss, over = label_loss(logits, labels, weight)
        total, count = total + loss.item(), count + over.item()
    return total / count if count else float("inf")


def _weights(network: LabelNetwork) -> dict[str, Tensor]:
    """Return a copy of the network's weights."""
    return {name: weight.detach().clone() for name, weight in network.state_dict().items()}


def _with_threshold(labeller: Labeller, sequences: Sequences, parts: Ints) -> Labeller:
    """Return the labeller with the threshold that `weekly_threshold` computes on the validation part."""
    score: Floats32 = labeller.alarm(labeller.probabilities(sequences))
    ordinary = (parts == VALIDATION) & (sequences.labels == labeller.task.background)
    threshold = weekly_threshold(score[ordinary], sequences.freq_s)
    return Labeller(
        labeller.config, labeller.task.model_copy(update={"threshold": threshold}), labeller.network
    )
