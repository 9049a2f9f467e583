"""Labelled sequences as dense arrays, and functions that split them into training, validation and test.

Letters: T steps, S sequences, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.arrays import Bools, Floats, Ints
from forecaster.time.windows import MICROSECONDS
from schemas.errors import DataError
from schemas.labels import SPLITS

UNKNOWN = -1
"""Label of a step or sequence without a known label."""

TRAIN, VALIDATION, TEST = range(3)
_LARGEST_BYTES = 8 << 30


@dataclass(frozen=True)
class Sequences:
    """Sequences with the same channels, padded at the end to one length.

    Attributes:
        series_ids: one per sequence.
        channels: names of the values at each step.
        values: ``[T, S, C]`` float64, NaN where missing and after the end of a sequence.
        lengths: ``[S]`` int64, number of steps, at least 1.
        classes: names of the labels.
        labels: ``[S]`` int64 if there is one label per sequence, ``[T, S]`` if there is one per step:
            position in ``classes``, or ``UNKNOWN``.
        start: ``[S]`` int64, window index of each sequence's first step; 0 if steps have no calendar.
        freq_s: seconds between two steps; 0 if steps have no calendar.
    """

    series_ids: tuple[str, ...]
    channels: tuple[str, ...]
    values: Floats
    lengths: Ints
    classes: tuple[str, ...]
    labels: Ints
    start: Ints
    freq_s: int = 0

    @property
    def is_per_step(self) -> bool:
        """Whether each step has its own label, instead of one label per sequence."""
        return self.labels.ndim == 2

    def step_mask(self) -> Bools:
        """Return a mask of steps and sequences: True at a step of the sequence, False in its padding."""
        return np.arange(len(self.values))[:, None] < self.lengths

    def take(self, index: Ints) -> Sequences:
        """Return the sequences at the positions ``index``, in the order of ``index``."""
        return replace(
            self,
            series_ids=tuple(self.series_ids[i] for i in index),
            values=self.values[: self.lengths[index].max(initial=1), index],
            lengths=self.lengths[index],
            labels=self.labels[: self.lengths[index].max(initial=1), index]
            if self.is_per_step
            else self.labels[index],
            start=self.start[index],
        )


@dataclass(frozen=True)
class GatheredSequences:
    """Sequences built from rows and, if the rows specify it, each sequence's use: training, validation, test.

    Attributes:
        sequences: the sequences.
        split: ``[S]`` int64, the use of each sequence: ``TRAIN``, ``VALIDATION`` or ``TEST``; None if the
            rows do not specify it.
        duplicates: number of rows that were dropped because their step already had a row.
    """

    sequences: Sequences
    split: Ints | None
    duplicates: int


def build_sequences(
    rows: pl.DataFrame, channels: Sequence[str], freq_s: int | None = None
) -> GatheredSequences:
    """Build one sequence from the rows of each series, with a label for the sequence or for each step.

    If no series has two different labels, labels are per sequence, and the steps are the rows in time order.
    Otherwise labels are per step, and the steps are windows of ``freq_s`` seconds; a window without a row is
    missing.

    Args:
        rows: ``schemas.labels.KEY`` and the channels.
        channels: columns of values.
        freq_s: seconds between two steps; None uses the most frequent distance.

    Raises:
        DataError: there is no label, or only one; or a series belongs to several parts.
    """
    found = rows["label"].drop_nulls().unique().sort().to_list()
    if len(found) < 2:
        raise DataError(
            f"the label column holds {_labels_found(found)}: give rows with at least 2 different labels"
        )
    names = tuple(sorted(found, key=_sort_key))
    counted = rows.group_by("series_id").agg(pl.col("label").drop_nulls().n_unique().alias("n"))
    is_per_step = bool((counted["n"] > 1).any())
    coded = rows.with_columns(
        pl.col("label").replace_strict(
            list(names), range(len(names)), default=UNKNOWN, return_dtype=pl.Int64
        ),
        pl.col("timestamp").dt.epoch("us").alias("us"),
    ).sort("series_id", "us", maintain_order=True)
    if is_per_step:
        step_s = freq_s or _most_frequent_s(coded)
        coded = coded.with_columns((pl.col("us") // (step_s * MICROSECONDS)).alias("window"))
        unique = coded.unique(["series_id", "window"], keep="first", maintain_order=True)
        row = unique["window"] - unique.select(pl.col("window").min().over("series_id")).to_series()
    else:
        step_s = 0
        unique = coded.unique(["series_id", "us"], keep="first", maintain_order=True)
        row = unique.select(pl.int_range(pl.len()).over("series_id")).to_series()
    sequences = _dense(unique, row.to_numpy(), channels, names, is_per_step, step_s)
    return GatheredSequences(sequences, _splits(coded), len(coded) - len(unique))


def _dense(
    unique: pl.DataFrame,
    row: Ints,
    channels: Sequence[str],
    names: tuple[str, ...],
    is_per_step: bool,
    step_s: int,
) -> Sequences:
    """Convert rows to dense arrays; the rows must be sorted by series, with at most one row for each step.

    Raises:
        DataError: the arrays would be too large.
    """
    ids = unique["series_id"].unique(maintain_order=True)
    # `rle_id` counts the changes of the id. The rows are sorted by series, so it numbers the series.
    column = unique["series_id"].rle_id().cast(pl.Int64).to_numpy()
    lengths = np.zeros(len(ids), np.int64)
    np.maximum.at(lengths, column, row + 1)
    shape = (int(lengths.max()), len(ids), len(channels))
    if np.prod(shape, dtype=float) * 8 > _LARGEST_BYTES:
        remedy = "a longer freq, or fewer series or channels" if is_per_step else "fewer series or channels"
        raise DataError(
            f"{shape[1]} series of up to {shape[0]} steps and {shape[2]} channels need more than "
            f"{_LARGEST_BYTES >> 30} GiB: give {remedy}"
        )
    values = np.full(shape, np.nan)
    for c, channel in enumerate(channels):
        values[row, column, c] = unique[channel].cast(pl.Float64).fill_null(np.nan).to_numpy()
    labels = np.full(shape[:2] if is_per_step else shape[1:2], UNKNOWN)
    codes = unique["label"].to_numpy()
    if is_per_step:
        labels[row, column] = codes
    else:
        # All labels of a sequence are equal, except missing ones, which are -1: take the largest.
        np.maximum.at(labels, column, codes)
    start = np.zeros(len(ids), np.int64)
    if is_per_step:
        start[column[row == 0]] = unique["window"].to_numpy()[row == 0]
    return Sequences(tuple(ids), tuple(channels), values, lengths, names, labels, start, step_s)


def _splits(coded: pl.DataFrame) -> Ints | None:
    """Return the part that each series belongs to, from the column ``split``; None if that column is empty.

    The part is 0 for training, 1 for validation and 2 for test.

    Raises:
        DataError: a series has several parts, or only some series have one.
    """
    parts = coded.group_by("series_id", maintain_order=True).agg(
        pl.col("split").drop_nulls().n_unique().alias("n"), pl.col("split").drop_nulls().first()
    )
    if parts["split"].null_count() == len(parts):
        return None
    wrong = parts.filter(pl.col("n") != 1)
    if len(wrong):
        name, n = wrong.row(0)[:2]
        raise DataError(
            f"series {name!r} {'belongs to several parts' if n else 'has no part'}: give each series one of "
            f"{', '.join(SPLITS)} in the split column"
        )
    codes: Ints = parts["split"].replace_strict(list(SPLITS), range(3), return_dtype=pl.Int64).to_numpy()
    return codes


def _most_frequent_s(coded: pl.DataFrame) -> int:
    """Return, in whole seconds, the most frequent gap of 1 s or more between successive rows of a series."""
    apart = coded.select(pl.col("us").diff().over("series_id")).to_series()
    counts = apart.filter(apart >= MICROSECONDS).value_counts(sort=True)
    if counts.is_empty():
        raise DataError("no series has successive rows 1 s or more apart: give the length of a step (freq)")
    return int(counts.filter(pl.col("count") == counts["count"][0])["us"].min()) // MICROSECONDS  # type: ignore[arg-type]


def _sort_key(name: str) -> tuple[int, float, str]:
    """Return a key that sorts labels: numbers first, by size, then words, by alphabet."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def _labels_found(known: Sequence[str]) -> str:
    """Return which labels were found, for an error message: ``only 'LABEL'`` or ``no label at all``."""
    return f"only {known[0]!r}" if known else "no label at all"


def split_stratified(labels: Ints, config_shares: tuple[float, float], seed: int) -> Ints:
    """Divide the sequences of each class at random among training, validation and test.

    Args:
        labels: ``[S]`` int64, one per sequence; a sequence with label ``UNKNOWN`` has no part.
        config_shares: shares of validation and test.
        seed: equal seeds give equal parts.

    Returns:
        ``[S]``: ``TRAIN``, ``VALIDATION``, ``TEST``, or -1 for no part.
    """
    rng, parts = np.random.default_rng(seed), np.full(len(labels), UNKNOWN)
    for label in np.unique(labels[labels != UNKNOWN]):
        own = rng.permutation(np.flatnonzero(labels == label))
        # At least one sequence of each class is used for training.
        # If a class has too few sequences for both other parts, validation gets its share before test does.
        validation = min(round(config_shares[0] * len(own)), len(own) - 1)
        test = min(round(config_shares[1] * len(own)), len(own) - 1 - validation)
        parts[own] = TRAIN
        parts[own[:validation]] = VALIDATION
        parts[own[validation : validation + test]] = TEST
    return parts


def split_by_time(sequences: Sequences, shares: tuple[float, float]) -> NDArray[np.int64]:
    """Assign the first steps to training, later steps to validation, and the last steps to test.

    The result is ``[T, S]``, -1 in the padding. All series are split at the same two times.
    """
    window = sequences.start + np.arange(len(sequences.values))[:, None]
    is_step = sequences.step_mask()
    first, stop = int(window[is_step].min()), int(window[is_step].max()) + 1
    test_from = stop - round(shares[1] * (stop - first))
    validation_from = test_from - round(shares[0] * (stop - first))
    parts = np.where(window >= test_from, TEST, np.where(window >= validation_from, VALIDATION, TRAIN))
    return np.where(is_step, parts, UNKNOWN)
