"""Tests of the training of a labeller for sequences and for time steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forecaster.arrays import Ints
from forecaster.labelling.config import LabelConfig
from forecaster.labelling.network import class_weights, label_loss
from forecaster.labelling.sequences import TEST, TRAIN, UNKNOWN, VALIDATION, Sequences
from forecaster.labelling.training import train_labeller
from schemas.errors import ConfigError, DataError


def config(**changes: object) -> LabelConfig:
    small = {"hidden": 12, "epochs": 12, "dropout": 0.0, "learning_rate": 0.02, "threads": 1, "batch": 8}
    return LabelConfig.model_validate(small | changes)


def waves(count: int = 90, seed: int = 0) -> Sequences:
    """Return slow, quick and flat waves of 8 to 20 steps, with a channel of noise and some missing values."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    lengths = rng.integers(8, 21, count)
    step = np.arange(20)[:, None]
    pace = np.array([0.4, 2.0, 0.0])[labels]
    values = np.stack([np.sin(pace * step + rng.random(count)), rng.normal(0, 1, (20, count))], axis=2)
    values[rng.random(values.shape) < 0.05] = np.nan
    values[step[:, 0][:, None] >= lengths] = np.nan
    ids = tuple(f"s{i}" for i in range(count))
    return Sequences(
        ids, ("wave", "noise"), values, lengths, ("slow", "quick", "flat"), labels, np.zeros(count, int)
    )


def spikes(steps: int = 800, series: int = 3, seed: int = 0) -> Sequences:
    """Return hourly noise with labelled spikes; the series have very different levels and units."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((steps, series)) < 0.03).astype(np.int64)
    values = rng.normal(0, 1, (steps, series)) + 8 * labels
    values = values * np.array([1.0, 50.0, 0.01]) + np.array([0.0, 1e4, -3.0])
    ids = tuple(f"s{i}" for i in range(series))
    return Sequences(
        ids, ("x",), values[:, :, None], np.full(series, steps), ("normal", "spike"), labels,
        np.zeros(series, int), 3600,
    )  # fmt: skip


def accuracy(sequences: Sequences, trained: object, parts: Ints) -> float:
    probabilities = trained.labeller.probabilities(sequences)  # type: ignore[attr-defined]
    chosen = parts == TEST
    return float((probabilities[chosen].argmax(-1) == sequences.labels[chosen]).mean())


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_every_recurrent_cell_learns_to_label_sequences(cell: str) -> None:
    sequences = waves()
    trained = train_labeller(sequences, config(cell=cell, epochs=30, learning_rate=0.01))
    assert accuracy(sequences, trained, trained.parts) >= 0.8
    assert trained.labeller.task.of == "sequence"


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_every_cell_labels_spikes_in_series_of_different_levels(cell: str) -> None:
    sequences = spikes()
    trained = train_labeller(sequences, config(cell=cell))
    task, probabilities = trained.labeller.task, trained.labeller.probabilities(sequences)
    alarm, test = trained.labeller.alarm(probabilities), trained.parts == TEST
    assert (task.of, task.scaling, task.background) == ("step", "running", 0)
    raised = alarm > task.threshold
    assert raised[test & (sequences.labels == 1)].mean() > 0.85
    assert raised[test & (sequences.labels == 0)].mean() < 0.03


def test_labeller_weights_do_not_depend_on_test_sequences() -> None:
    sequences = waves(45)
    one = train_labeller(sequences, config(epochs=2))
    held = one.parts == TEST
    values = sequences.values.copy()
    values[:, held] *= 100
    labels = np.where(held, (sequences.labels + 1) % 3, sequences.labels)
    split = one.parts
    changed = Sequences(
        sequences.series_ids, sequences.channels, values, sequences.lengths, sequences.classes, labels,
        sequences.start,
    )  # fmt: skip
    first, second = (train_labeller(s, config(epochs=2), split) for s in (sequences, changed))
    assert first.labeller.version == second.labeller.version


def test_steps_in_the_test_part_change_no_labeller_weight() -> None:
    sequences = spikes(400)
    one = train_labeller(sequences, config(epochs=2))
    held = one.parts == TEST
    changed = Sequences(
        sequences.series_ids, sequences.channels, np.where(held[:, :, None], 1e6, sequences.values),
        sequences.lengths, sequences.classes, np.where(held, 1, sequences.labels), sequences.start, 3600,
    )  # fmt: skip
    assert train_labeller(changed, config(epochs=2)).labeller.version == one.labeller.version


def test_equal_seeds_give_equal_labeller_weights() -> None:
    sequences = waves(30)
    before = torch.random.get_rng_state()
    one, two = (train_labeller(sequences, config(epochs=2)) for _ in range(2))
    assert one.labeller.version == two.labeller.version
    assert torch.equal(before, torch.random.get_rng_state())
    assert train_labeller(sequences, config(epochs=2, seed=1)).labeller.version != one.labeller.version


def test_labeller_training_stops_without_improvement_of_validation_loss() -> None:
    """The setting ``patience`` is the number of epochs without improvement after which training stops."""
    sequences = waves(60)
    rng = np.random.default_rng(0)
    scrambled = Sequences(
        sequences.series_ids, sequences.channels, sequences.values, sequences.lengths, sequences.classes,
        rng.permutation(sequences.labels), sequences.start,
    )  # fmt: skip
    trained = train_labeller(scrambled, config(epochs=200, patience=3))
    losses = [epoch["validation_loss"] for epoch in trained.history]
    assert len(losses) < 200
    assert int(np.argmin(losses)) == len(losses) - 4


def test_validation_sequences_are_taken_only_from_the_training_sequences() -> None:
    sequences = waves(60)
    split = np.where(np.arange(60) < 40, TRAIN, TEST)
    trained = train_labeller(sequences, config(epochs=1), split)
    assert (trained.parts[40:] == TEST).all()
    # A fifth of each class, rounded, is held out for validation: 3 of its 13 or 14 sequences.
    assert (trained.parts[:40] == VALIDATION).sum() == 9


def test_unlabelled_sequences_are_in_no_part_of_the_split() -> None:
    sequences = waves(60)
    labels = np.where(np.arange(60) % 5 == 0, UNKNOWN, sequences.labels)
    partly_labelled = Sequences(
        sequences.series_ids, sequences.channels, sequences.values, sequences.lengths, sequences.classes,
        labels, sequences.start,
    )  # fmt: skip
    trained = train_labeller(partly_labelled, config(epochs=1))
    assert (trained.parts[labels == UNKNOWN] == UNKNOWN).all()
    assert np.isfinite(trained.labeller.probabilities(partly_labelled)).all()


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (waves, {"scaling": "running"}, "is only for labels of steps"),
        (spikes, {"scaling": "series"}, "is only for labels of sequences"),
    ],
)
def test_a_scaling_unsuited_to_the_label_kind_is_refused(
    make: object, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_labeller(make(), config(**changes))  # type: ignore[operator]


def test_a_training_part_with_a_single_label_is_refused() -> None:
    sequences = waves(30)
    split = np.where(sequences.labels == 0, TRAIN, TEST)
    with pytest.raises(DataError, match="the training part has 1 of the 3 labels"):
        train_labeller(sequences, config(), split)


def test_class_weights_balance_classes_with_mean_1_over_labels() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10 + [UNKNOWN] * 5)
    for balance in (0.0, 0.5, 1.0):
        weight = class_weights(labels, 3, balance)
        assert weight[labels[:100]].mean() == pytest.approx(1.0, rel=1e-5)
        assert weight[2] == 0.0
    assert (weight[0] * 90).item() == pytest.approx((weight[1] * 10).item(), rel=1e-5)


def test_unknown_labels_do_not_change_the_labelling_loss() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([1.0, 2.0, 0.5])
    known, total = label_loss(logits[:2], torch.tensor([0, 2]), weight)
    both, total_both = label_loss(logits, torch.tensor([0, 2, UNKNOWN, UNKNOWN]), weight)
    assert (known.item(), total.item()) == pytest.approx((both.item(), total_both.item()))
    nothing, none = label_loss(logits, torch.full((4,), UNKNOWN), weight)
    assert (nothing.item(), none.item()) == (0.0, 0.0)
