"""What a decoder is, and how one message that it cannot read is told from those around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from schemas import cells
from schemas.errors import StatecastError

MESSAGE = "message"
"""Column of a decoded frame: the place (Int64, from 0) of the message that a row was in."""

_TOMBSTONE = "the message is empty (a tombstone)"


@dataclass(frozen=True)
class Messages:
    """Messages of one partition, in its order.

    Attributes:
        values: their bytes; None for a tombstone.
        keys: likewise.
    """

    values: Sequence[bytes | None]
    keys: Sequence[bytes | None]

    def __len__(self) -> int:
        return len(self.values)

    @staticmethod
    def of(several: Sequence[Messages]) -> Messages:
        """Those of several partitions, one after the other."""
        return Messages([v for m in several for v in m.values], [k for m in several for k in m.keys])

    def at(self, places: Sequence[int]) -> Messages:
        """Those at ``places``."""
        if len(places) == len(self):
            return self
        return Messages([self.values[p] for p in places], [self.keys[p] for p in places])


Decoder = Callable[[Messages], pl.DataFrame]
"""Messages, none of them empty, into a raw frame: ``series_id``, ``timestamp`` and ``value`` of any type,
``event_id`` and ``observed.NAME`` where rows have them, and ``message`` (rising); ``problem`` (String) says
why one cannot be read.

What it raises is taken as a fault of some message, which is looked for; a `StatecastError` is everybody's.
"""


def decoded(decode: Decoder, messages: Messages) -> pl.DataFrame:
    """The raw frame of messages, with ``problem`` for those that cannot be decoded; in their order.

    Raises:
        StatecastError: the decoder itself is at fault.
    """
    many = range(len(messages))
    filled = many if all(messages.values) else [place for place in many if messages.values[place]]
    parts = list(_parts(decode, messages, filled))
    if len(filled) < len(messages):
        empty = [place for place in many if not messages.values[place]]
        parts.append(problems(empty, [_TOMBSTONE] * len(empty)))
    return parts[0] if len(parts) == 1 else joined(parts).sort(MESSAGE, maintain_order=True)


def _parts(decode: Decoder, messages: Messages, places: Sequence[int]) -> Iterator[pl.DataFrame]:
    if not places:
        return
    try:
        frame = decode(messages.at(places))
    except StatecastError:
        raise
    except Exception as error:
        if len(places) == 1:
            yield problems(places, [f"cannot be decoded; {shown(str(error) or type(error).__name__)}"])
            return
        middle = len(places) // 2
        yield from _parts(decode, messages, places[:middle])
        yield from _parts(decode, messages, places[middle:])
        return
    if len(places) < len(messages):
        frame = frame.with_columns(pl.Series(MESSAGE, places, pl.Int64).gather(frame[MESSAGE]))
    yield frame


def problems(places: Sequence[int], reasons: Sequence[str]) -> pl.DataFrame:
    """Rows of messages that hold none."""
    nothing = pl.Series([None] * len(places), dtype=pl.String)
    return pl.DataFrame(
        {
            **dict.fromkeys(("series_id", "timestamp", "value"), nothing),
            MESSAGE: pl.Series(places, dtype=pl.Int64),
            "problem": pl.Series(reasons, dtype=pl.String),
        }
    )


def joined(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Raw frames as one; columns whose types differ become text."""
    types: dict[str, set[pl.DataType]] = {}
    for frame in frames:
        for name, dtype in frame.schema.items():
            types.setdefault(name, set()).add(dtype)
    mixed = {name for name, found in types.items() if len(found) > 1}
    return pl.concat(
        [frame.with_columns(cells.text(frame[name]) for name in mixed & {*frame.columns}) for frame in frames]
        if mixed
        else frames,
        how="diagonal",
    )


def series_of(column: Sequence[object]) -> pl.Series:
    """Cells as a column of their type, or of text where they are of several."""
    try:
        return pl.Series(column)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        return pl.Series([None if cell is None else str(cell) for cell in column], dtype=pl.String)


def frame_of(
    records: Sequence[Mapping[str, object]], names: Mapping[str, Sequence[str]], places: Sequence[int]
) -> pl.DataFrame:
    """A raw frame of one mapping a message; ``names`` are of `Names.by_column`."""
    columns = {
        column: series_of([next((r[n] for n in known if r.get(n) is not None), None) for r in records])
        for column, known in names.items()
    }
    return pl.DataFrame({**columns, MESSAGE: pl.Series(places, dtype=pl.Int64)})


def shown(text: str) -> str:
    """Text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:97] + "..."
