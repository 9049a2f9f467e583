"""Training a labeller: whole sequences in batches, or steps by truncated back-propagation with carried state.

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
from forecaster.labelling.sequences import TRAIN, UNKNOWN, VALIDATION, Sequences, by_time, stratified
from forecaster.threads import compute_threads
from schemas.errors import ConfigError, DataError

Epoch = dict[str, float]
_CLIP_NORM = 1.0


@dataclass(frozen=True)
class TrainedLabeller:
    """What a run made.

    Attributes:
        labeller: the weights of the epoch with the lowest validation loss.
        history: per epoch ``epoch, train_loss, validation_loss, seconds`` (weighted cross entropy).
        parts: ``[S]``, or ``[T, S]`` for steps: ``TRAIN``, ``VALIDATION``, ``TEST``, -1 for none.
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
    """Fits a network that labels sequences, or their steps where labels are per step.

    Sequences are parted by class, steps by time: nothing of a step's future, and nothing of a held-out
    sequence, is learned from, scaling included. Equal seeds, machines and numbers of threads give equal
    weights.

    Args:
        sequences: what is known.
        config: shape and training.
        split: ``[S]`` what each sequence is for, where the data says so; if it names no validation
            sequences, ``config.validation`` of the training ones are taken. Not for steps.
        on_epoch: told of every epoch.

    Raises:
        DataError: there is nothing to learn from, or nothing to stop by.
        ConfigError: a scaling that cannot be, or a split of steps.
    """
    config = config or LabelConfig()
    parts = _parts(sequences, config, split)
    labels = np.where(parts == TRAIN, sequences.labels, UNKNOWN)
    present = np.unique(labels[labels != UNKNOWN])
    if len(present) < 2:
        raise DataError(
            f"the training part has {len(present)} of the {len(sequences.classes)} labels: give more "
            "sequences, or a longer history, or smaller shares for validation and test"
        )
    if not (sequences.labels[parts == VALIDATION] != UNKNOWN).any():
        raise DataError(
            "the validation part has no label, so training would not know when to stop: give more"
        )
    task = _task(sequences, config, parts)
    with compute_threads(config.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = untrained(config, task)
        fit = (
            _Steps(sequences, parts, Labeller(config, task, network))
            if sequences.is_per_step
            else _Whole(sequences, parts, Labeller(config, task, network))
        )
        network.requires_grad_(True)
        weight = class_weights(torch.from_numpy(labels), len(sequences.classes), config.balance)
        history = _fit(network, fit, weight, config, on_epoch)
    labeller = Labeller(config, task, network)
    if sequences.is_per_step:
        labeller = _with_threshold(labeller, sequences, parts)
    return TrainedLabeller(labeller, history, parts)


def _parts(sequences: Sequences, config: LabelConfig, split: Ints | None) -> Ints:
    if sequences.is_per_step:
        if split is not None:
            raise ConfigError("a split column is for labels of whole sequences; steps are split by time")
        return by_time(sequences, (config.validation, config.test))
    if split is None:
        return stratified(sequences.labels, (config.validation, config.test), config.seed)
    parts = np.where(sequences.labels == UNKNOWN, UNKNOWN, split)
    if not (parts == VALIDATION).any():
        learned = parts == TRAIN
        own = np.where(learned, sequences.labels, UNKNOWN)
        parts = np.where(learned, stratified(own, (config.validation, 0.0), config.seed), parts)
    return parts


def _task(sequences: Sequences, config: LabelConfig, parts: Ints) -> Task:
    scaling = config.scaling or ("running" if sequences.is_per_step else "train")
    if scaling == "running" and not sequences.is_per_step:
        raise ConfigError("scaling running is for labels of steps; sequences know train and series")
    if scaling == "series" and sequences.is_per_step:
        raise ConfigError("scaling series would show a step its future; steps know running and train")
    learned = (parts == TRAIN) & sequences.there()
    mean, std = inputs.spread(sequences.values[learned]) if scaling == "train" else (np.empty(0), np.empty(0))
    known = sequences.labels[(parts == TRAIN) & (sequences.labels != UNKNOWN)]
    return Task(
        of="step" if sequences.is_per_step else "sequence",
        channels=sequences.channels,
        classes=sequences.classes,
        scaling=scaling,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        freq_s=sequences.freq_s,
        background=int(np.bincount(known).argmax()) if sequences.is_per_step else 0,
    )


class _Whole:
    """Batches of whole sequences, those of a similar length together with none: they are shuffled."""

    def __init__(self, sequences: Sequences, parts: Ints, labeller: Labeller) -> None:
        self._x = torch.from_numpy(labeller.sequence_inputs(sequences.values))
        self._lengths = torch.from_numpy(sequences.lengths)
        self._labels = torch.from_numpy(sequences.labels)
        self._index = {part: torch.from_numpy(np.flatnonzero(parts == part)) for part in (TRAIN, VALIDATION)}
        self._batch = labeller.config.batch

    def batches(self, network: LabelNetwork, part: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits and labels of every sequence of a part, shuffled."""
        index = self._index[part]
        for chosen in torch.split(index[torch.randperm(len(index))], self._batch):
            lengths = self._lengths[chosen]
            x = self._x[: int(lengths.max()), chosen]
            yield network.per_sequence(x, lengths), self._labels[chosen]


class _Steps:
    """Segments of some series at a time, in order, the state carried from one to the next."""

    def __init__(self, sequences: Sequences, parts: Ints, labeller: Labeller) -> None:
        x, _ = labeller.step_inputs(labeller.initial_state(sequences.start), sequences.values)
        self._x = torch.from_numpy(x)
        self._labels = {
            part: torch.from_numpy(np.where(parts == part, sequences.labels, UNKNOWN))
            for part in (TRAIN, VALIDATION)
        }
        # What is learned ends where validation begins, and validation where the test begins.
        self._stop = {
            part: int(np.flatnonzero((parts == part).any(axis=1)).max()) + 1 for part in self._labels
        }
        self._config = labeller.config

    def batches(self, network: LabelNetwork, part: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits and labels of every segment up to the end of a part, of which only its labels count."""
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
    data: _Whole | _Steps,
    weight: Tensor,
    config: LabelConfig,
    on_epoch: Callable[[Epoch], None],
) -> list[Epoch]:
    """Trains until the validation loss has not fallen for a while; leaves the best weights in the network."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=config.patience // 3
    )
    history: list[Epoch] = []
    best, lowest, failed = _weights(network), float("inf"), 0
    for number in range(1, config.epochs + 1):
        began = time.monotonic()
        network.train()
        total, count = 0.0, 0.0
        for logits, labels in data.batches(network, TRAIN):
            loss, over = label_loss(logits, labels, weight)
            optimizer.zero_grad()
            (loss / over).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), _CLIP_NORM)
            optimizer.step()
            total, count = total + loss.item(), count + over.item()
        validation = _validate(network, data, weight)
        if not np.isfinite([total, validation]).all():
            raise DataError(
                f"training stopped in epoch {number}: its loss is no number any more: lower the learning rate"
            )
        seconds = time.monotonic() - began
        epoch = {
            "epoch": number, "train_loss": total / count, "validation_loss": validation, "seconds": seconds
        }  # fmt: skip
        history.append(epoch)
        on_epoch(epoch)
        schedule.step(validation)
        failed += 1
        if validation < lowest:
            best, lowest, failed = _weights(network), validation, 0
        if failed >= config.patience:
            break
    network.load_state_dict(best)
    return history


@torch.no_grad()
def _validate(network: LabelNetwork, data: _Whole | _Steps, weight: Tensor) -> float:
    network.eval()
    total, count = 0.0, 0.0
    for logits, labels in data.batches(network, VALIDATION):
        loss, over = label_loss(logits, labels, weight)
        total, count = total + loss.item(), count + over.item()
    return total / count if count else float("inf")


def _weights(network: LabelNetwork) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in network.state_dict().items()}


def _with_threshold(labeller: Labeller, sequences: Sequences, parts: Ints) -> Labeller:
    score: Floats32 = labeller.alarm(labeller.probabilities(sequences))
    ordinary = (parts == VALIDATION) & (sequences.labels == labeller.task.background)
    threshold = weekly_threshold(score[ordinary], sequences.freq_s)
    return Labeller(
        labeller.config, labeller.task.model_copy(update={"threshold": threshold}), labeller.network
    )
