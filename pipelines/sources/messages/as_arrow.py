"""Decode messages that are Arrow IPC streams or files, each with any number of rows."""

from __future__ import annotations

import re

import polars as pl
import pyarrow as pa

from pipelines.sources.messages.base import Decoder, Messages, alike, problems, shown
from pipelines.sources.messages.field_names import Names
from schemas import arrow

_FILE = b"ARROW1"
_OF_CELLS = re.compile("UTF8|precision|acceptable range|whole number of days")
"""Matches pyarrow's errors about single cells, which are quarantined; other errors reject the message."""


def arrow_decoder(names: Names) -> Decoder:
    """Return a decoder of Arrow IPC messages.

    All rows of a message have the offset of the message, so a job applies either all rows or none.

    The messages are read with pyarrow, because Polars panics at Arrow types that it does not support.
    """

    def decode(messages: Messages) -> list[pl.DataFrame]:
        frames: list[pl.DataFrame] = []
        bad: list[int] = []
        reasons: list[str] = []
        for place, value in enumerate(messages.values):
            try:
                rows = _rows(value or b"", names)
            except Exception as error:  # pyarrow raises errors of many types for invalid bytes
                bad.append(place)
                reasons.append(f"cannot be decoded; is not an Arrow IPC stream or file ({shown(str(error))})")
                continue
            places = pl.Series([place], dtype=pl.Int64).new_from_index(0, rows.num_rows)
            frames.append(names.chosen(arrow.frame_of(rows), places))
        return [*alike(frames), problems(bad, reasons)]

    return decode


def _rows(data: bytes, names: Names) -> pa.Table:
    """Return the columns of a message that the job uses; among columns of the same name, the first counts."""
    opened = pa.ipc.open_file if data.startswith(_FILE) else pa.ipc.open_stream
    with opened(pa.py_buffer(data)) as reader:
        table = reader.read_all()
    columns = table.schema.names
    table = table.select([columns.index(name) for name in names.fields if name in columns])
    for column in table.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if not _OF_CELLS.search(str(error)):
                raise
    return table
