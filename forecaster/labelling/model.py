"""A labeller: a trained network that labels sequences or steps, with its settings and its version.

Letters: T steps, S sequences, C channels, F inputs, L layers, H hidden width, K classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError

from forecaster import durable
from forecaster.arrays import Arrays, Floats, Floats32, Ints
from forecaster.config import NetworkConfig
from forecaster.labelling import inputs
from forecaster.labelling.config import LabelConfig, Scaling
from forecaster.labelling.network import Carried, LabelNetwork
from forecaster.labelling.sequences import Sequences
from forecaster.setting_types import Settings
from forecaster.weights import config_of_blob, read, to_blob, version_of, weights_of_blob
from schemas.errors import DataError, ModelError

FILE_NAME = "labeller.safetensors"
# `Labeller.probabilities` passes at most this many steps to one call of `Labeller.step`, to bound the memory.
_BLOCK = 512


class Task(Settings):
    """The task of a labeller: the channels that it reads, how it scales them, and the labels that it assigns.

    Attributes:
        of: ``sequence`` if each sequence has one label, ``step`` if each step has one.
        channels: names of the C values at each step.
        classes: names of the K labels.
        scaling: see `LabelConfig.scaling`.
        mean, std: ``[C]`` of the training rows, for the scaling ``train``; empty for other scalings.
        freq_s: seconds between two steps; 0 if steps have no calendar.
        background: position of the class of ordinary steps, the most frequent class. Steps of other classes
            are anomalous.
        threshold: a step whose probability of being anomalous is above it raises an alarm. It is chosen on
            the validation rows so that series have at most one false alarm a week there, on average. 1 for
            sequences.
        level_free: settings of the inputs for the scaling ``running``.
    """

    of: Literal["sequence", "step"]
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    scaling: Scaling
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    freq_s: int = 0
    background: int = 0
    threshold: float = 1.0
    level_free: NetworkConfig = inputs.LEVEL_FREE


@dataclass(frozen=True)
class LabelState:
    """The state of a labeller between two calls of `Labeller.step`.

    Attributes:
        next_window: ``[S]`` int64, window index of each series' next step.
        parts: under ``network``, ``hidden`` (and ``cell``) ``[S, L, H]`` float32; with the scaling
            ``running`` also the components of the inputs, with one row per series and channel.
    """

    next_window: Ints
    parts: dict[str, Arrays]


@dataclass(frozen=True)
class Labeller:
    """A trained label network with its settings, its task and its version.

    Attributes:
        config: settings of shape and training.
        task: what it labels.
        network: the network, in evaluation mode.
        version: cell and a hash of settings and weights, such as ``lstm-3f2a9c1b7d20``.
    """

    config: LabelConfig
    task: Task
    network: LabelNetwork
    version: str = field(init=False)

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)
        version = version_of(self.config.cell, self._config_json(), self.network)
        object.__setattr__(self, "version", version)

    def probabilities(self, sequences: Sequences) -> Floats32:
        """Return the probability of each class for each sequence, or for each step if the task labels steps.

        The result is ``[S, K]`` for sequences, and ``[T, S, K]`` for steps.

        The probabilities of a sequence do not depend on other sequences, and the probabilities of a step do
        not depend on later steps. They are NaN after the end of a sequence.

        Raises:
            DataError: ``sequences`` has other channels than the model.
        """
        if sequences.channels != self.task.channels:
            raise DataError(
                f"the channels are {', '.join(sequences.channels)}, and the model was trained on "
                f"{', '.join(self.task.channels)}: give the same channels"
            )
        if self.task.of == "sequence":
            with torch.inference_mode():
                x = torch.from_numpy(self.sequence_inputs(sequences.values))
                logits = self.network.per_sequence(x, torch.from_numpy(sequences.lengths))
                return np.asarray(logits.softmax(-1).numpy())
        state, blocks = self.initial_state(sequences.start), []
        for first in range(0, len(sequences.values), _BLOCK):
            state, block = self.step(state, sequences.values[first : first + _BLOCK])
            blocks.append(block)
        probabilities = np.concatenate(blocks)
        probabilities[~sequences.step_mask()] = np.nan
        return probabilities

    def sequence_inputs(self, values: Floats) -> Floats32:
        """Return the network's inputs for ``values``, for a task with the scaling ``train`` or ``series``.

        ``values`` is ``[T, S, C]``, and the inputs are ``[T, S, F]``.
        """
        if self.task.scaling == "series":
            return inputs.scaled_by_sequence(values)
        return inputs.scaled(values, np.array(self.task.mean), np.array(self.task.std))

    def initial_state(self, start: Ints) -> LabelState:
        """Return the state of the labeller before the first step of its series.

        Args:
            start: ``[S]`` index of each series' first window.
        """
        parts = {"network": _as_arrays(self.network.initial(len(start)))}
        if self.task.scaling == "running":
            columns = len(start) * len(self.task.channels)
            parts |= inputs.level_free_state(columns, self.task.level_free)
        return LabelState(start.copy(), parts)

    def step(self, state: LabelState, values: Floats) -> tuple[LabelState, Floats32]:
        """Step all series through the windows of ``values``; return the new state and class probabilities.

        ``values`` is ``[T, S, C]``, and the probabilities are ``[T, S, K]``.

        One call with T steps returns the same as T calls with one step. The given state must not be used
        again.
        """
        x, parts = self.step_inputs(state, values)
        with torch.inference_mode():
            carried = tuple(
                torch.from_numpy(np.ascontiguousarray(part.swapaxes(0, 1)))
                for part in state.parts["network"].values()
            )
            logits, carried = self.network.per_step(torch.from_numpy(x), carried)
            probabilities = np.asarray(logits.softmax(-1).numpy())
        parts["network"] = _as_arrays(carried)
        return replace(state, next_window=state.next_window + len(values), parts=parts), probabilities

    def step_inputs(self, state: LabelState, values: Floats) -> tuple[Floats32, dict[str, Arrays]]:
        """Return the network's inputs for ``values``, and the state of the input components after ``values``.

        The inputs are ``[T, S, F]``. The state is empty unless the scaling is ``running``.
        """
        if self.task.scaling != "running":
            return self.sequence_inputs(values), {}
        before = {name: part for name, part in state.parts.items() if name != "network"}
        parts, x = inputs.level_free(
            before, values, state.next_window, self.task.freq_s, self.task.level_free
        )
        return x, parts

    def alarm(self, probabilities: Floats32) -> Floats32:
        """Return the probability of an anomaly: 1 minus the probability of the class of ordinary steps.

        ``probabilities`` is ``[..., K]``, for K classes.
        """
        return np.asarray(1.0 - probabilities[..., self.task.background], np.float32)

    def to_bytes(self) -> bytes:
        """Return weights, settings and task in safetensors format."""
        return to_blob(self._config_json(), self.network)

    @staticmethod
    def from_bytes(data: bytes) -> Labeller:
        """Return the labeller whose `to_bytes` returned ``data``.

        Raises:
            ModelError: ``data`` is not a labeller.
        """
        try:
            parts = config_of_blob(data)
            config = LabelConfig.model_validate(parts["config"])
            task = Task.model_validate(parts["task"])
            network = untrained(config, task)
            network.load_state_dict(weights_of_blob(data))
        except (ValueError, KeyError, TypeError, SafetensorError, RuntimeError) as error:
            raise ModelError(f"this is not a labeller: {str(error).splitlines()[0]}") from error
        return Labeller(config, task, network)

    def save(self, folder: Path) -> Path:
        """Write the labeller to ``labeller.safetensors`` in ``folder``; return the path of the file.

        The folder is created if it is missing. The file is the earlier one or the new one at every moment,
        also after a loss of power.

        Raises:
            OSError: the file cannot be written.
        """
        path = folder / FILE_NAME
        durable.write_bytes(path, self.to_bytes())
        return path

    @staticmethod
    def load(folder: Path) -> Labeller:
        """Return the labeller that `save` wrote into ``folder``.

        Raises:
            ModelError: ``folder`` does not hold a labeller.
        """
        return read(folder / FILE_NAME, Labeller.from_bytes)

    def _config_json(self) -> str:
        parts = {"config": self.config.model_dump(), "task": self.task.model_dump()}
        return json.dumps(parts, indent=2, sort_keys=True)


def untrained(config: LabelConfig, task: Task) -> LabelNetwork:
    """Return a network with random weights; its inputs and classes fit the task."""
    width = inputs.count(task.scaling, len(task.channels), task.level_free)
    return LabelNetwork(config, width, len(task.classes))


def _as_arrays(carried: Carried) -> Arrays:
    """Return the state that the network carries from step to step: arrays by name, one row per series.

    ``[L, S, H]`` becomes ``[S, L, H]``.
    """
    names = ("hidden", "cell")[: len(carried)]
    return {name: part.numpy().swapaxes(0, 1) for name, part in zip(names, carried, strict=True)}
