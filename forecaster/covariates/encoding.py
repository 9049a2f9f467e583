"""Tables of covariates, and how their columns become features.

A column of numbers is standardised, one of text has a feature for each of its words, and every column has one
more that says whether it is known: what is missing is 0 there and everywhere. How columns become features is
fixed as a network is trained (`Features`) and kept with its weights.

Letters: K known features, D static ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from forecaster.arrays import Bools, Floats, Floats32, Ints
from forecaster.setting_types import Settings
from forecaster.time.calendar import phases_worth_knowing
from forecaster.time.frequency import Frequency
from forecaster.time.windows import Windows
from schemas import cells
from schemas.errors import DataError
from schemas.observations import LARGEST

_MOST_WORDS = 64
_ROUNDING = 2.0**-48  # of the mean: numbers that scatter less are all the same
_MOST_SPREADS = 100.0  # that a number lies from the mean: a rare event's 1 among 10,000 zeros does
SERIES, TIME = "series_id", "timestamp"


@dataclass(frozen=True)
class Table:
    """Covariates as somebody wrote them down.

    Attributes:
        frame: ``series_id`` and columns (static ones); or ``timestamp``, columns, and ``series_id`` where
            they are of one series each (known ones). Cells may be text.
        name: of the file, for people.
    """

    frame: pl.DataFrame
    name: str = "the table"


class Tables(NamedTuple):
    """What is known of windows and what is known of series; None where nothing is."""

    known: Table | None = None
    static: Table | None = None


class Column(Settings):
    """How a column becomes features.

    Attributes:
        name: of the column.
        mean, scale: by which numbers are standardised.
        words: the texts that have a feature each, in order; none for numbers.
    """

    name: str
    mean: float = 0.0
    scale: float = 1.0
    words: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Features, the one that says whether the cell is known among them."""
        return 1 + max(len(self.words), 1)

    def features(self, table: Table) -> Floats32:
        """``[rows, width]`` float32.

        Raises:
            DataError: a cell is no number where numbers were learned from.
        """
        column = column_of(table, self.name)
        found = np.zeros((len(column), self.width), np.float32)
        if self.words:
            word = cells.text(column).str.strip_chars()
            for i, known in enumerate(self.words):
                found[:, i] = (word == known).fill_null(False).to_numpy()
            found[:, -1] = cells.given(column).to_numpy()
            return found
        number = _numbers(table, column)
        known_rows = ~np.isnan(number)
        with np.errstate(over="ignore"):
            spreads = np.clip((number - self.mean) / self.scale, -_MOST_SPREADS, _MOST_SPREADS)
        found[:, 0] = np.where(known_rows, spreads, 0.0)
        found[:, 1] = known_rows
        return found


class Features(Settings):
    """Which features there are, in order; kept with the weights.

    Attributes:
        calendar: periods whose phases are known of every window.
        known: columns of windows, future ones too.
        static: columns of series.
        observed: columns of the rows themselves, known up to now.
    """

    calendar: tuple[str, ...] = ()
    known: tuple[Column, ...] = ()
    static: tuple[Column, ...] = ()
    observed: tuple[str, ...] = ()

    @property
    def known_count(self) -> int:
        """K."""
        return 2 * len(self.calendar) + sum(column.width for column in self.known)

    @property
    def static_count(self) -> int:
        """D."""
        return sum(column.width for column in self.static)

    @property
    def is_empty(self) -> bool:
        """Whether there is none."""
        return not (self.known_count or self.static_count or self.observed)

    @staticmethod
    def fit(tables: Tables, windows: Windows, freq: Frequency, held_from: int | None = None) -> Features:
        """The features of tables and a calendar, with statistics of what is learned from.

        These are the rows of known covariates before the first window that is held out, and those of series
        with a value before it. Which periods of the calendar there are depends on the length of the whole
        history alone.

        Args:
            tables: what is known beside the values.
            windows: the whole history.
            freq: length of a window.
            held_from: row of the first window that is not learned from; all are learned from by default.

        Raises:
            DataError: a table lacks a column, or a cell cannot be read.
        """
        known, static = tables
        periods = phases_worth_knowing(freq, len(windows.values))
        learned = windows if held_from is None else windows.rows(0, held_from)
        known_columns: tuple[Column, ...] = ()
        if known is not None:
            past = windows_of(known, freq) < learned.stop
            known_columns = _columns(known, past)
        static_columns: tuple[Column, ...] = ()
        if static is not None:
            has_value = (~np.isnan(learned.values)).any(axis=0) | (held_from is None)
            names = [learned.series_ids[i] for i in np.flatnonzero(has_value)]
            own = cells.names(column_of(static, SERIES)).is_in(names).to_numpy()
            static_columns = _columns(static, own)
        observed = tuple(windows.past)
        return Features(calendar=periods, known=known_columns, static=static_columns, observed=observed)


def _columns(table: Table, learned: Bools) -> tuple[Column, ...]:
    """How each column becomes features, by the rows ``learned`` (bool), or by all where there are none."""
    rows = learned if learned.any() else np.ones_like(learned)
    names = [name for name in table.frame.columns if name not in (SERIES, TIME)]
    if not names:
        raise DataError(f"{table.name}: has no column beside {SERIES} and {TIME}: add one, or leave it out")
    return tuple(_fitted(table, table.frame[name], rows) for name in names)


def _fitted(table: Table, column: pl.Series, rows: Bools) -> Column:
    given = cells.given(column)
    is_number = cells.numbers(column).is_not_null() & given
    if int(is_number.sum()) * 2 >= int(given.sum()):  # a typing error makes no text of a column of numbers
        number = _numbers(table, column)[rows]
        known = number[~np.isnan(number)]
        mean, scale = (float(known.mean()), float(known.std())) if len(known) else (0.0, 1.0)
        return Column(name=column.name, mean=mean, scale=scale if scale > _ROUNDING * abs(mean) else 1.0)
    seen = cells.text(column.filter(pl.Series(rows) & given)).str.strip_chars()
    words = tuple(seen.unique().sort())
    if len(words) > _MOST_WORDS:
        raise DataError(
            f"{table.name}: column {column.name}: holds {len(words):,} different texts, and {_MOST_WORDS} "
            "are the most: leave the column out, or put them into groups"
        )
    return Column(name=column.name, words=words or ("",))


def column_of(table: Table, name: str) -> pl.Series:
    """A column of a table.

    Raises:
        DataError: there is none of that name.
    """
    if name not in table.frame.columns:
        there = ", ".join(table.frame.columns)
        raise DataError(f"{table.name}: has no column {name} (it has {there}): add it")
    return table.frame[name]


def windows_of(table: Table, freq: Frequency) -> Ints:
    """``[rows]`` int64, the window of each row's time.

    Raises:
        DataError: a time cannot be read.
    """
    column = column_of(table, TIME)
    time = cells.times(column)
    if time.null_count():
        row = int(time.is_null().arg_max() or 0)
        raise DataError(
            f"{table.name}: row {row + 1}: column {TIME}: {column[row]!r} is no time: write it as "
            "2013-01-31T05:00:00Z"
        )
    window = time.alias(TIME).to_frame().select(freq.window(pl.col(TIME))).to_series()
    return window.to_numpy().astype(np.int64)


def _numbers(table: Table, column: pl.Series) -> Floats:
    """``[rows]`` float64, NaN where a cell is missing."""
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
            f"{table.name}: row {row + 1}: column {column.name}: {column[row]!r} is no number, as others in "
            "it are: write one, or leave the cell empty"
        )
    return number.fill_null(float("nan")).to_numpy()
