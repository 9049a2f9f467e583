"""Schema and validation of labelled rows.

Labelled rows are the input of a labeller, a model that assigns labels to the times of a sequence. A row holds
the values of one sequence at one time, one value for each channel, and the label of that time, if it is
known. ``series_id`` is the id of the sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandera.polars as pa
import polars as pl

from schemas import cells, quarantine
from schemas.checking import failing
from schemas.errors import DataError
from schemas.faults import Cause, Fault, fault, rejected_rows
from schemas.observations import FIRST_TIME, LARGEST, LAST_TIME

KEY: dict[str, pl.DataType] = {
    "series_id": pl.String(),
    "timestamp": pl.Datetime("us", "UTC"),
    "label": pl.String(),
    "split": pl.String(),
}
"""The first columns of a frame of labelled rows, and their types.

After these columns, the frame has a Float64 column for each channel.
"""

SPLITS = ("train", "validation", "test")
RESERVED = (*KEY, "file", "row", "problem")
"""Names that a channel must not have, because other columns of the frame have them."""


def validate(frame: pl.DataFrame, channels: Sequence[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split raw rows into valid rows and quarantined rows; each raw row is in exactly one of the two.

    Args:
        frame: the raw rows. The columns ``series_id``, ``timestamp`` and the channels are required, of any
            type. Optional columns are ``label``; ``split``, the part of the data (one of `SPLITS`) to which
            the row is assigned; and ``file``, ``row`` and ``problem``, as in `schemas.observations.validate`.
        channels: the names of the columns that hold values. An empty cell or NaN in such a column is a
            missing value, for which the row is not rejected.

    Returns:
        Two frames. The first holds the valid rows, in the order of the raw frame, with the columns of `KEY`
        and the channels; ``label`` and ``split`` are null in rows without them. The second holds the
        quarantined rows (`quarantine.SCHEMA`).

    Raises:
        DataError: a required column is absent.
    """
    absent = [name for name in ("series_id", "timestamp", *channels) if name not in frame.columns]
    if absent:
        raise DataError(
            f"the rows lack {', '.join(absent)}; their columns are: {', '.join(frame.columns) or 'none'}"
        )
    read = _read(frame, channels)
    fails = failing(read, _schema(channels))
    unread = {name: cells.given(frame[name]) & cells.numbers(frame[name]).is_null() for name in channels}
    bad = {name: fails[name] if name in fails.columns else _all_false(frame) for name in (*KEY, *channels)}
    bad |= {name: bad[name] | text for name, text in unread.items()}
    problem = frame["problem"] if "problem" in frame.columns else None
    broken = _all_false(frame) if problem is None else problem.is_not_null()
    is_bad = broken
    for part in bad.values():
        is_bad = is_bad | part
    return read.filter(~is_bad), _quarantined(frame, read, bad, broken, is_bad)


def _all_false(frame: pl.DataFrame) -> pl.Series:
    return pl.select(pl.repeat(False, frame.height, dtype=pl.Boolean)).to_series()


def _read(frame: pl.DataFrame, channels: Sequence[str]) -> pl.DataFrame:
    words = {
        name: _stripped_text(frame[name])
        if name in frame.columns
        else pl.repeat(None, frame.height, dtype=pl.String)
        for name in ("label", "split")
    }
    return pl.DataFrame([cells.names(frame["series_id"]), cells.times(frame["timestamp"])]).with_columns(
        **words, **{name: cells.numbers(frame[name]).fill_nan(None) for name in channels}
    )


def _stripped_text(column: pl.Series) -> pl.Series:
    """Convert the cells to text without surrounding blanks; an empty cell becomes null.

    Whole numbers lose their ``.0``, so that 1.0 and 1 are the same label.
    """
    # `names` turns "1.0" into "1", but not if blanks surround it: strip the blanks and call `names` again.
    words = cells.names(cells.names(column).str.strip_chars())
    return words.set(words == "", None)


def _schema(channels: Sequence[str]) -> pa.DataFrameSchema:
    years = pa.Check.in_range(FIRST_TIME, LAST_TIME)
    columns = {
        "series_id": pa.Column(pl.String, pa.Check.str_contains(r"\S")),
        "timestamp": pa.Column(pl.Datetime("us", "UTC"), years),
        "label": pa.Column(pl.String, nullable=True),
        "split": pa.Column(pl.String, pa.Check.isin(SPLITS), nullable=True),
    }
    within = pa.Check.in_range(-LARGEST, LARGEST)
    columns |= {name: pa.Column(pl.Float64, within, nullable=True) for name in channels}
    return pa.DataFrameSchema(columns, strict=True, ordered=True)


def _quarantined(
    frame: pl.DataFrame,
    read: pl.DataFrame,
    bad: dict[str, pl.Series],
    broken: pl.Series,
    is_bad: pl.Series,
) -> pl.DataFrame:
    at = is_bad.arg_true()
    if not len(at):
        return quarantine.empty()
    raw = frame[at]
    made = {name: cells.shown(raw[name]) for name in read.columns if name in raw.columns}
    work = pl.DataFrame(made).with_columns(broken[at].alias("\0broken"))
    causes: list[Cause] = []
    if "problem" in raw.columns:
        work = work.with_columns(raw["problem"].cast(pl.String).alias("\0problem"))
        unreadable = fault(True, "row cannot be read", pl.col("\0problem"))
        causes.append(Cause(pl.col("\0broken"), "", [unreadable]))
    for name in made:
        work = work.with_columns(bad[name][at].alias(f"\0{name}"))
        # If the reader could not read a row, report only the reader's problem: the cells mean nothing.
        is_faulty = pl.col(f"\0{name}") & ~pl.col("\0broken")
        causes.append(Cause(is_faulty, name, _faults_of(name)))
    return rejected_rows(raw, at, work, list(made), causes)


def _faults_of(name: str) -> list[Fault]:
    cell = pl.format("'{}'", pl.col(name).str.strip_chars().str.head(40).fill_null(""))
    if name == "series_id":
        no_text = fault(True, "series_id is missing", cell + " is no text")
        return [fault(cell == "''", "series_id is missing"), no_text]
    if name == "timestamp":
        return [fault(True, "is not a time", cell + " is not a time of the years 1678 to 2261")]
    if name == "split":
        sentence = cell + f" is no part: write {', '.join(SPLITS)}, or nothing"
        return [fault(True, "split is no known part", sentence)]
    return [fault(True, "is not a number", cell + f" is not a number, or is beyond {LARGEST:g}")]
