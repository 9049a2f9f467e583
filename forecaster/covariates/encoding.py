"""Covariate tables, and the encoding of their columns as features.

A column of numbers is standardised. A column of text has one feature for each of its distinct texts, the
*words*. Every column has one more feature: 1 if the cell is given, 0 if it is missing; the other features of
a missing cell are 0. The encoding (`Features`) is fixed when a network is trained, and saved with its
weights.

Letters: K known features, D static features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from forecaster.arrays import Bools, Floats, Floats32, Ints
from forecaster.setting_types import Settings
from forecaster.time.calendar import useful_periods
from forecaster.time.frequency import Frequency
from forecaster.time.windows import Windows
from schemas import cells
from schemas.errors import DataError
from schemas.observations import LARGEST

_MOST_WORDS = 64
# A column of numbers counts as constant if its standard deviation is at most this share of its absolute mean.
_ROUNDING = 2.0**-48
# Standardised numbers are clipped to at most this many standard deviations from the mean.
# In a column of one 1 and 10,000 zeros, the 1 is 100 standard deviations from the mean: it is not clipped.
_MOST_SPREADS = 100.0
SERIES, TIME = "series_id", "timestamp"


@dataclass(frozen=True)
class Table:
    """A table of covariates before its columns are encoded as features.

    Attributes:
        frame: static covariates: ``series_id`` and columns. Known covariates: ``timestamp``, columns, and
            ``series_id`` if rows belong to one series each. Cells may be text.
        name: name of the file, for messages.
    """

    frame: pl.DataFrame
    name: str = "the table"


class Tables(NamedTuple):
    """The table of known covariates and the table of static covariates; None if there is no such table."""

    known: Table | None = None
    static: Table | None = None


class Column(Settings):
    """The encoding of one column of a covariate table as features.

    Attributes:
        name: the column's name.
        mean, scale: the mean and standard deviation by which numbers are standardised.
        words: the texts that have a feature each, in order; empty for a column of numbers.
    """

    name: str
    mean: float = 0.0
    scale: float = 1.0
    words: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """The number of features of the column, including the one that shows whether a cell has a value."""
        return 1 + max(len(self.words), 1)

    def features(self, table: Table) -> Floats32:
        """Return this column's features for each row of a table: ``width`` float32 numbers per row.

        Raises:
            DataError: a cell is not a number, and the column was encoded as numbers.
        """
        column = column_of(table, self.name)
        encoded = np.zeros((len(column), self.width), np.float32)
        if self.words:
            texts = cells.text(column).str.strip_chars()
            for i, word in enumerate(self.words):
                encoded[:, i] = (texts == word).fill_null(False).to_numpy()
            encoded[:, -1] = cells.given(column).to_numpy()
            return encoded
        number = _numbers(table, column)
        is_given = ~np.isnan(number)
        with np.errstate(over="ignore"):
            spreads = np.clip((number - self.mean) / self.scale, -_MOST_SPREADS, _MOST_SPREADS)
        encoded[:, 0] = np.where(is_given, spreads, 0.0)
        encoded[:, 1] = is_given
        return encoded


class Features(Settings):
    """The encoding of a network's known and static covariates, and the names of its observed covariates.

    The object is saved with the network's weights.

    Attributes:
        calendar: periods; the phase of every window in each of them is a feature.
        known: columns of known covariates.
        static: columns of static covariates.
        observed: names of observed covariates.
    """

    calendar: tuple[str, ...] = ()
    known: tuple[Column, ...] = ()
    static: tuple[Column, ...] = ()
    observed: tuple[str, ...] = ()

    @property
    def known_count(self) -> int:
        """The number of known features, K, including the features of the calendar."""
        return 2 * len(self.calendar) + sum(column.width for column in self.known)

    @property
    def static_count(self) -> int:
        """The number of static features, D."""
        return sum(column.width for column in self.static)

    @property
    def is_empty(self) -> bool:
        """Whether there are no features and no observed covariates."""
        return not (self.known_count or self.static_count or self.observed)

    @staticmethod
    def fit(tables: Tables, windows: Windows, freq: Frequency, held_from: int | None = None) -> Features:
        """Choose the periods of the calendar, and fit the encoding of covariates to the training windows.

        The statistics are of the rows of known covariates before the first window that is held out, and of
        the static covariates of series with a value before it. Only the choice of the calendar's periods
        depends on the length of the whole history.

        Args:
            tables: the covariates of the job.
            windows: the whole history.
            freq: length of a window.
            held_from: row of the first window that is held out from training; none is by default.

        Raises:
            DataError: a table lacks a column, or a cell cannot be read.
        """
        known, static = tables
        periods = useful_periods(freq, len(windows.values))
        learned = windows if held_from is None else windows.rows(0, held_from)
        known_columns: tuple[Column, ...] = ()
        if known is not None:
            past = row_windows(known, freq) < learned.stop
            known_columns = _columns(known, past)
        static_columns: tuple[Column, ...] = ()
        if static is not None:
            has_value = (~np.isnan(learned.values)).any(axis=0) | (held_from is None)
            names = [learned.series_ids[i] for i in np.flatnonzero(has_value)]
            own = cells.names(column_of(static, SERIES)).is_in(names).to_numpy()
            static_columns = _columns(static, own)
        observed = tuple(windows.past)
        return Features(calendar=periods, known=known_columns, static=static_columns, observed=observed)


def _columns(table: Table, in_training: Bools) -> tuple[Column, ...]:
    """Return the encodings of a table's columns, fitted to its training rows or, without any, to all rows."""
    rows = in_training if in_training.any() else np.ones_like(in_training)
    names = [name for name in table.frame.columns if name not in (SERIES, TIME)]
    if not names:
        raise DataError(
            f"{table.name}: has no column beside {SERIES} and {TIME}: add one, or leave the table out"
        )
    return tuple(_fitted(table, table.frame[name], rows) for name in names)


def _fitted(table: Table, column: pl.Series, rows: Bools) -> Column:
    """Return the encoding of a column, fitted to the rows where ``rows`` is True.

    All rows decide whether the column holds numbers or text.
    """
    given = cells.given(column)
    is_number = cells.numbers(column).is_not_null() & given
    # A column is numeric if at least half of its non-empty cells are numbers.
    # Thus a typing error in a numeric column is an error, and does not turn the column into text.
    if int(is_number.sum()) * 2 >= int(given.sum()):
        number = _numbers(table, column)[rows]
        known = number[~np.isnan(number)]
        mean, scale = (float(known.mean()), float(known.std())) if len(known) else (0.0, 1.0)
        return Column(name=column.name, mean=mean, scale=scale if scale > _ROUNDING * abs(mean) else 1.0)
    seen = cells.text(column.filter(pl.Series(rows) & given)).str.strip_chars()
    words = tuple(seen.unique().sort())
    if len(words) > _MOST_WORDS:
        raise DataError(
            f"{table.name}: column {column.name}: holds {len(words):,} different texts, and {_MOST_WORDS} "
            "are the most: leave the column out, or replace the texts by groups"
        )
    return Column(name=column.name, words=words or ("",))


def column_of(table: Table, name: str) -> pl.Series:
    """Return the column ``name`` of a table of covariates.

    Raises:
        DataError: the table has no column of that name.
    """
    if name not in table.frame.columns:
        there = ", ".join(table.frame.columns)
        raise DataError(f"{table.name}: has no column {name} (it has {there}): add it")
    return table.frame[name]


def row_windows(table: Table, freq: Frequency) -> Ints:
    """Return the index of the window in which each row's time lies.

    Raises:
        DataError: a time cannot be read.
    """
    column = column_of(table, TIME)
    time = cells.times(column)
    if time.null_count():
        row = int(time.is_null().arg_max() or 0)
        raise DataError(
            f"{table.name}: row {row + 1}: column {TIME}: {column[row]!r} is not a time: write it as "
            "2013-01-31T05:00:00Z"
        )
    window = time.alias(TIME).to_frame().select(freq.window(pl.col(TIME))).to_series()
    return window.to_numpy().astype(np.int64)


def _numbers(table: Table, column: pl.Series) -> Floats:
    """Return the cells of a column as float64 numbers, NaN if missing.

    Raises:
        DataError: a cell is not a number, or is too large.
    """
    number = cells.numbers(column)
    given = cells.given(column)
    beyond = given & (number.is_finite() & (number.abs() > LARGEST)).fill_null(False)
    if beyond.any():
        row = int(beyond.arg_max() or 0)
        raise DataError(
            f"{table.name}: row {row + 1}: column {column.name}: {column[row]!r} is beyond {LARGEST:g}: "
            "write a smaller number, or leave the cell empty"
        )
    broken = given & (number.is_null() | number.is_infinite().fill_null(False))
    if broken.any():
        row = int(broken.arg_max() or 0)
        raise DataError(
            f"{table.name}: row {row + 1}: column {column.name}: {column[row]!r} is not a finite number, "
            "but the column is numeric: write a number, or leave the cell empty"
        )
    return number.fill_null(float("nan")).to_numpy()
