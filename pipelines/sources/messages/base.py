"""Define decoders, which convert messages to raw frames; messages that cannot be decoded are rejected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from schemas.errors import StatecastError

MESSAGE = "message"
"""Column of a raw frame: the index (Int64, from 0) of the message that held the row."""

UNDECODABLE: Final = "message cannot be decoded"
NO_SCHEMA: Final = "schema is unknown"
"""The kind of fault of a message whose schema is not found; a later request may find the schema."""

NO_REFUSALS: Final[Mapping[int, str]] = {}

_TOMBSTONE = "the message is empty (a tombstone)"


@dataclass(frozen=True)
class Messages:
    """The values and keys of the messages of a poll.

    Attributes:
        values: contents of the messages; None for a tombstone.
        keys: keys of the messages; None for a message without a key.
    """

    values: Sequence[bytes | None]
    keys: Sequence[bytes | None]

    def __len__(self) -> int:
        return len(self.values)

    @staticmethod
    def of(several: Sequence[Messages]) -> Messages:
        """Join the messages of several partitions, partition by partition."""
        return Messages([v for m in several for v in m.values], [k for m in several for k in m.keys])

    def at(self, places: Sequence[int]) -> Messages:
        """Return only the messages at the indices ``places``, which ascend and do not repeat."""
        if len(places) == len(self):
            return self
        return Messages([self.values[p] for p in places], [self.keys[p] for p in places])


Decoder = Callable[[Messages], Sequence[pl.DataFrame]]
"""A function from messages, none of them empty, to raw frames.

A raw frame has ``series_id``, ``timestamp`` and ``value`` of any type, ``event_id`` and ``observed.NAME`` if
the rows have them, and ``message`` (ascending). ``problem`` (String) is the reason why a row cannot be read,
and ``problem_kind`` its kind (see `schemas.quarantine.KINDS`).

All rows of a message are in one frame. Cells of different types are in different frames, so that the result
for a message does not depend on the other messages.

If a decoder raises an exception, the messages are halved and decoded again, until the messages that cause
exceptions are found; these messages are rejected. A `StatecastError` ends the job instead.
"""


def decoded(
    decode: Decoder, messages: Messages, refused: Mapping[int, str] = NO_REFUSALS
) -> list[pl.DataFrame]:
    """Decode messages into raw frames; rows of messages that cannot be decoded have a ``problem``.

    Args:
        decode: the decoder.
        messages: the messages.
        refused: the reasons why messages were refused at the first read, by the index of the message; these
            messages are not decoded.

    Raises:
        StatecastError: the decoder fails for a reason other than the messages.
    """
    indices = range(len(messages))
    filled: Sequence[int] = indices
    if refused or not all(messages.values):
        filled = [place for place in indices if messages.values[place] and place not in refused]
    frames = list(_frames(decode, messages, filled))
    if refused:
        frames.append(problems([*refused], [*refused.values()], NO_SCHEMA))
    if len(filled) + len(refused) < len(messages):
        empty = [place for place in indices if not messages.values[place]]
        frames.append(problems(empty, [_TOMBSTONE] * len(empty), "message is empty"))
    return frames


def _frames(decode: Decoder, messages: Messages, places: Sequence[int]) -> Iterator[pl.DataFrame]:
    if not places:
        return
    try:
        frames = decode(messages.at(places))
    except StatecastError:
        raise
    # PanicException of Polars is not a subclass of Exception, so name it too.
    except (Exception, pl.exceptions.PanicException) as error:
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
    """Return a raw frame with one row for each rejected message; the column ``problem`` has the reason."""
    nulls = pl.Series([None] * len(places), dtype=pl.String)
    return pl.DataFrame(
        {
            **dict.fromkeys(("series_id", "timestamp", "value"), nulls),
            MESSAGE: pl.Series(places, dtype=pl.Int64),
            "problem": pl.Series(reasons, dtype=pl.String),
            "problem_kind": pl.Series([kind] * len(places), dtype=pl.String),
        }
    )


def alike(frames: Iterable[pl.DataFrame]) -> list[pl.DataFrame]:
    """Join frames with the same columns and types; return one frame for each set of columns and types."""
    by_schema: dict[tuple[tuple[str, pl.DataType], ...], list[pl.DataFrame]] = {}
    for frame in frames:
        by_schema.setdefault(tuple(frame.schema.items()), []).append(frame)
    return [pl.concat(some) for some in by_schema.values()]


def shown(text: str) -> str:
    """Return a text as one line; if it is longer than 100 characters, its end is cut off."""
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:97] + "..."
