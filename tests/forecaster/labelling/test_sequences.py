"""Tests of how labelled rows become sequences, and of their training, validation and test parts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.labelling.sequences import (
    TEST,
    TRAIN,
    UNKNOWN,
    VALIDATION,
    build_sequences,
    split_by_time,
    split_stratified,
)
from schemas.errors import DataError
from schemas.labels import KEY

Row = tuple[str, int, str | None, float | None]


def rows(*given_rows: Row, split: dict[str, str] | None = None) -> pl.DataFrame:
    """Return labelled rows from tuples of series id, hour, label and value; the only channel is x."""
    start = datetime(2020, 1, 1, tzinfo=UTC)
    return pl.DataFrame(
        {
            "series_id": [r[0] for r in given_rows],
            "timestamp": [start + timedelta(hours=r[1]) for r in given_rows],
            "label": [r[2] for r in given_rows],
            "split": [(split or {}).get(r[0]) for r in given_rows],
            "x": [r[3] for r in given_rows],
        },
        schema=KEY | {"x": pl.Float64()},
    )


def test_series_with_one_label_each_are_labelled_per_sequence() -> None:
    frame = rows(("a", 9, "up", 2.0), ("b", 0, "down", 5.0), ("a", 1, None, 1.0), ("a", 30, "up", None))
    made = build_sequences(frame, ["x"])
    found = made.sequences
    assert not found.is_per_step
    assert (found.series_ids, found.classes) == (("a", "b"), ("down", "up"))
    assert found.labels.tolist() == [1, 0]
    assert found.lengths.tolist() == [3, 1]
    np.testing.assert_array_equal(found.values[:, :, 0], [[1, 5], [2, np.nan], [np.nan, np.nan]])


def test_labels_varying_within_series_give_one_label_per_step() -> None:
    frame = rows(("a", 2, "ok", 1.0), ("a", 3, "bad", 2.0), ("a", 6, None, 3.0), ("b", 5, "ok", 4.0))
    found = build_sequences(frame, ["x"]).sequences
    assert found.is_per_step
    assert found.freq_s == 3600
    assert found.classes == ("bad", "ok")
    assert found.labels.T.tolist() == [[1, 0, -1, -1, -1], [1, -1, -1, -1, -1]]
    assert found.lengths.tolist() == [5, 1]
    assert (found.start - found.start[0]).tolist() == [0, 3]
    np.testing.assert_array_equal(found.values[:, 0, 0], [1, 2, np.nan, np.nan, 3])


def test_only_the_first_row_of_a_time_step_is_kept() -> None:
    frame = rows(("a", 0, "ok", 1.0), ("a", 0, "ok", 9.0), ("a", 1, "bad", 2.0), ("a", 2, "ok", 3.0))
    made = build_sequences(frame, ["x"])
    assert made.duplicates == 1
    assert made.sequences.values[:, 0, 0].tolist() == [1, 2, 3]
    longer = build_sequences(frame, ["x"], freq_s=7200)
    assert longer.duplicates == 2


def test_labels_that_are_numbers_are_sorted_as_numbers() -> None:
    frame = rows(*((f"s{i}", 0, str(i), 1.0) for i in (10, 9, 2)))
    assert build_sequences(frame, ["x"]).sequences.classes == ("2", "9", "10")


@pytest.mark.parametrize(
    ("label", "message"), [("up", "holds only 'up'"), (None, "holds no label at all")]
)  # fmt: skip
def test_a_label_column_without_two_different_labels_is_refused(label: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_sequences(rows(("a", 0, label, 1.0), ("b", 0, label, 1.0)), ["x"])


def test_a_series_must_belong_to_exactly_one_part_of_the_split() -> None:
    frame = rows(("a", 0, "up", 1.0), ("b", 0, "down", 1.0), split={"a": "train", "b": "test"})
    split = build_sequences(frame, ["x"]).split
    assert split is not None
    assert split.tolist() == [TRAIN, TEST]
    series_in_two_parts = pl.concat([frame, rows(("a", 1, "up", 1.0), split={"a": "test"})])
    with pytest.raises(DataError, match="series 'a' belongs to several parts"):
        build_sequences(series_in_two_parts, ["x"])
    series_without_part = rows(("a", 0, "up", 1.0), ("b", 0, "down", 1.0), split={"a": "train"})
    with pytest.raises(DataError, match="series 'b' has no part"):
        build_sequences(series_without_part, ["x"])


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=60), st.integers(0, 5))
def test_a_stratified_split_has_training_sequences_of_each_class(labels: list[int], seed: int) -> None:
    array = np.array(labels)
    parts = split_stratified(array, (0.2, 0.2), seed)
    np.testing.assert_array_equal(parts == UNKNOWN, array == UNKNOWN)
    np.testing.assert_array_equal(parts, split_stratified(array, (0.2, 0.2), seed))
    for label in set(labels) - {UNKNOWN}:
        counts = [int((parts[array == label] == part).sum()) for part in (TRAIN, VALIDATION, TEST)]
        n = sum(counts)
        assert counts[0] >= 1
        assert counts[1] == min(round(0.2 * n), n - 1)


def test_a_split_by_time_divides_all_series_at_the_same_times() -> None:
    frame = rows(*(("a", h, "ok", 1.0) for h in range(10)), *(("b", h, "bad", 1.0) for h in range(5, 9)))
    frame = pl.concat([frame, rows(("b", 9, "ok", 1.0))])
    parts = split_by_time(build_sequences(frame, ["x"]).sequences, (0.2, 0.3))
    assert parts[:, 0].tolist() == [TRAIN] * 5 + [VALIDATION] * 2 + [TEST] * 3
    assert parts[:, 1].tolist() == [VALIDATION] * 2 + [TEST] * 3 + [UNKNOWN] * 5


def test_sequences_larger_than_8_gib_are_refused() -> None:
    frame = rows(("a", 0, "ok", 1.0), ("a", 1, "bad", 1.0), ("a", 2_000_000, "ok", 1.0))
    with pytest.raises(DataError, match="need more than 8 GiB: give a longer freq"):
        build_sequences(frame, ["x"], freq_s=1)
