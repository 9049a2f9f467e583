"""What a decoder is, and how one message that it cannot read is told from those around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from schemas.errors import StatecastError

MESSAGE = "message"
"""Column of a decoded frame: the place (Int64, from 0) of the message that a row was in."""

UNDECODABLE: Final = "message cannot be decoded"
NO_SCHEMA: Final = "schema is unknown"
"""The kind of fault of a message whose schema cannot be found, for now at least."""

NOTHING: Final[Mapping[int, str]] = {}

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


Decoder = Callable[[Messages], Sequence[pl.DataFrame]]
"""Messages, none of them empty, into raw frames: ``series_id``, ``timestamp`` and ``value`` of any type,
``event_id`` and ``observed.NAME`` where rows have them, and ``message`` (rising); ``problem`` (String) says
why one cannot be read, and ``problem_kind`` of what kind that is (see `schemas.quarantine.KINDS`).

All rows of a message are in one frame. Cells of different types are in different frames, so that a message
reads alike whatever comes beside it.

What a decoder raises is taken as a fault of some message, which is looked for; a `StatecastError` is
everybody's.
"""


def decoded(decode: Decoder, messages: Messages, refused: Mapping[int, str] = NOTHING) -> list[pl.DataFrame]:
    """The raw frames of messages, with ``problem`` for those that cannot be decoded.

    Args:
        decode: the decoder.
        messages: the messages.
        refused: places of messages that are not decoded, since their schemas were unknown, with the reason.

    Raises:
        StatecastError: the decoder itself is at fault.
    """
    many = range(len(messages))
    filled: Sequence[int] = many
    if refused or not all(messages.values):
        filled = [place for place in many if messages.values[place] and place not in refused]
    frames = list(_frames(decode, messages, filled))
    if refused:
        frames.append(problems([*refused], [*refused.values()], NO_SCHEMA))
    if len(filled) + len(refused) < len(messages):
        empty = [place for place in many if not messages.values[place]]
        frames.append(problems(empty, [_TOMBSTONE] * len(empty), "message is empty"))
    return frames


def _frames(decode: Decoder, messages: Messages, places: Sequence[int]) -> Iterator[pl.DataFrame]:
    if not places:
        return
    try:
        frames = decode(messages.at(places))
    except StatecastError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # a panic of Polars is no Exception
        if len(places) == 1:
            yield problems(places, [f"cannot be decoded; {shown(str(error) or type(error).__name__)}"])
            return
        middle = len(places) // 2
        yield from _frames(decode, messages, places[:middle])
        yield from _frames(decode, messages, places[middle:])
        return
    for frame in frames:
        if len(places) < len(messages):
            frame = frame.with_columns(pl.Series(MESSAGE, places, pl.Int64).gather(frame[MESSAGE]))
        if len(frame):
            yield frame


def problems(places: Sequence[int], reasons: Sequence[str], kind: str = UNDECODABLE) -> pl.DataFrame:
    """Rows of messages that hold none, all of one kind of fault."""
    nothing = pl.Series([None] * len(places), dtype=pl.String)
    return pl.DataFrame(
        {
            **dict.fromkeys(("series_id", "timestamp", "value"), nothing),
            MESSAGE: pl.Series(places, dtype=pl.Int64),
            "problem": pl.Series(reasons, dtype=pl.String),
            "problem_kind": pl.Series([kind] * len(places), dtype=pl.String),
        }
    )


def alike(frames: Iterable[pl.DataFrame]) -> list[pl.DataFrame]:
    """The frames, those of equal columns and types as one."""
    by_schema: dict[tuple[tuple[str, pl.DataType], ...], list[pl.DataFrame]] = {}
    for frame in frames:
        by_schema.setdefault(tuple(frame.schema.items()), []).append(frame)
    return [pl.concat(some) for some in by_schema.values()]


def shown(text: str) -> str:
    """Text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:97] + "..."
