"""Tests of the labeller, a recurrent network that gives each sequence or each time step a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forecaster.arrays import Floats
from forecaster.labelling.config import LabelConfig
from forecaster.labelling.model import Labeller, Task, untrained
from forecaster.labelling.sequences import Sequences
from schemas.errors import DataError, ModelError

CELLS = ("lstm", "gru", "rnn")
CHANNELS = ("x", "y")
CLASSES = ("a", "b", "c")


def labeller(cell: str, of: str, scaling: str, layers: int = 2, pooling: str = "last") -> Labeller:
    """Return a labeller with random weights that are so large that its outputs depend on its inputs."""
    config = LabelConfig.model_validate({"cell": cell, "hidden": 6, "layers": layers, "pooling": pooling})
    moments = {"mean": (1.0, -2.0), "std": (2.0, 3.0)} if scaling == "train" else {}
    task = Task.model_validate(
        {"of": of, "channels": CHANNELS, "classes": CLASSES, "scaling": scaling, "freq_s": 3600} | moments
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = untrained(config, task)
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.5)
    return Labeller(config, task, network)


def values(steps: int, series: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    walk = rng.normal(0, 1, (steps, series, len(CHANNELS))).cumsum(axis=0) + 5
    return np.where(rng.random(walk.shape) < 0.15, np.nan, walk)


def sequences(parts: list[Floats]) -> Sequences:
    """Return labeller sequences, one for each array ``[t, C]``, padded to the longest array."""
    lengths = np.array([len(part) for part in parts])
    dense = np.full((lengths.max(), len(parts), len(CHANNELS)), np.nan)
    for s, part in enumerate(parts):
        dense[: len(part), s] = part
    ids = tuple(f"s{s}" for s in range(len(parts)))
    unknown = np.full(len(parts), -1)
    return Sequences(ids, CHANNELS, dense, lengths, CLASSES, unknown, np.zeros(len(parts), np.int64))


@given(
    st.sampled_from(CELLS),
    st.sampled_from(["running", "train"]),
    st.integers(0, 9),
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.integers(0, 400_000),
)
def test_labelling_a_sequence_in_parts_changes_no_probability(
    cell: str, scaling: str, seed: int, pieces: list[int], start: int
) -> None:
    model, given_values = labeller(cell, "step", scaling), values(sum(pieces), 3, seed)
    begin = start + np.array([0, 5, 100])
    _, whole = model.step(model.initial_state(begin), given_values)
    state, found, done = model.initial_state(begin), [], 0
    for length in pieces:
        state, piece = model.step(state, given_values[done : done + length])
        found.append(piece)
        done += length
    np.testing.assert_allclose(np.concatenate(found), whole, atol=1e-5)
    np.testing.assert_array_equal(state.next_window, begin + done)


@pytest.mark.parametrize("cell", CELLS)
def test_labelling_step_by_step_gives_the_probabilities_of_one_call(cell: str) -> None:
    model, given_values = labeller(cell, "step", "running"), values(60, 2, 1)
    begin = np.array([7, 1000])
    _, whole = model.step(model.initial_state(begin), given_values)
    state, found = model.initial_state(begin), []
    for row in given_values:
        state, one = model.step(state, row[None])
        found.append(one[0])
    np.testing.assert_allclose(np.stack(found), whole, atol=1e-5)


@given(st.sampled_from(CELLS), st.sampled_from(["running", "train"]), st.integers(0, 9), st.integers(0, 49))
def test_label_probabilities_of_a_step_do_not_depend_on_later_values(
    cell: str, scaling: str, seed: int, cut: int
) -> None:
    model, one = labeller(cell, "step", scaling), values(50, 2, seed)
    other = one.copy()
    other[cut + 1 :] = values(50, 2, seed + 100)[cut + 1 :] * 1000
    begin = np.zeros(2, np.int64)
    found, changed = (model.step(model.initial_state(begin), v)[1] for v in (one, other))
    np.testing.assert_array_equal(found[: cut + 1], changed[: cut + 1])


@given(
    st.sampled_from(CELLS),
    st.sampled_from(["train", "series"]),
    st.sampled_from(["last", "mean"]),
    st.integers(0, 9),
    st.lists(st.integers(1, 30), min_size=2, max_size=6),
)
def test_padding_a_sequence_changes_no_label_probability(
    cell: str, scaling: str, pooling: str, seed: int, lengths: list[int]
) -> None:
    """Padding is added at the end of sequences that are shorter than the longest in their batch."""
    model = labeller(cell, "sequence", scaling, pooling=pooling)
    parts = [values(length, 1, seed + s)[:, 0] for s, length in enumerate(lengths)]
    together = model.probabilities(sequences(parts))
    alone = np.concatenate([model.probabilities(sequences([part])) for part in parts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_rescaling_a_series_changes_probabilities_only_with_train_scaling() -> None:
    """The scalings "series" and "running" scale a series by its own values, "train" by fixed statistics."""
    shape = labeller("gru", "sequence", "series")
    part = values(20, 1, 4)[:, 0]
    scaled = part * 1000 + 5e4
    np.testing.assert_allclose(
        shape.probabilities(sequences([part])), shape.probabilities(sequences([scaled])), atol=1e-4
    )
    running = labeller("gru", "step", "running")
    one, other = (
        running.step(running.initial_state(np.zeros(1, np.int64)), v[:, None])[1] for v in (part, 1000 * part)
    )
    np.testing.assert_allclose(one, other, atol=1e-4)
    absolute = labeller("gru", "sequence", "train")
    one, other = (absolute.probabilities(sequences([v])) for v in (part, scaled))
    assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize("scaling", ["running", "train"])
@pytest.mark.parametrize("cell", CELLS)
def test_missing_constant_and_huge_values_give_valid_label_probabilities(cell: str, scaling: str) -> None:
    model = labeller(cell, "step", scaling)
    for part in (np.full((40, 1, 2), np.nan), np.full((40, 1, 2), 7.0), np.full((40, 1, 2), 1e100)):
        _, found = model.step(model.initial_state(np.zeros(1, np.int64)), part)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found.sum(axis=-1), 1.0, atol=1e-5)


def test_a_labeller_is_restored_from_its_file(tmp_path: Path) -> None:
    model = labeller("lstm", "step", "train")
    model.save(tmp_path / "model")
    loaded = Labeller.load(tmp_path / "model")
    assert (loaded.version, loaded.task, loaded.config) == (model.version, model.task, model.config)
    begin, given_values = np.zeros(2, np.int64), values(9, 2, 0)
    np.testing.assert_array_equal(
        loaded.step(loaded.initial_state(begin), given_values)[1],
        model.step(model.initial_state(begin), given_values)[1],
    )


def test_a_changed_task_threshold_changes_the_labeller_version() -> None:
    model = labeller("gru", "step", "running")
    changed = Labeller(model.config, model.task.model_copy(update={"threshold": 0.5}), model.network)
    assert len({model.version, changed.version, labeller("gru", "step", "running").version}) == 2


def test_missing_and_invalid_labeller_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        Labeller.load(tmp_path)
    (tmp_path / "labeller.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="this is not a labeller"):
        Labeller.load(tmp_path)


def test_a_labeller_refuses_rows_with_other_channels() -> None:
    part = sequences([values(5, 1, 0)[:, 0]])
    other = Sequences(
        part.series_ids, ("x", "z"), part.values, part.lengths, CLASSES, part.labels, part.start
    )
    with pytest.raises(DataError, match="the channels are x, z, and the model was trained on x, y: give"):
        labeller("gru", "sequence", "train").probabilities(other)
