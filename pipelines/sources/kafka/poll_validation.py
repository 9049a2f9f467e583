"""Decode and validate the messages of a poll, and split their rows by partition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipelines.sources.kafka.batching import PolledRows, between
from pipelines.sources.kafka.consumer import Polled
from pipelines.sources.kafka.decision_journal import Decisions
from pipelines.sources.kafka.repeated_decisions import Judge, PolledMessages, refuse, refused
from pipelines.sources.kafka.topic import KafkaTopic
from pipelines.sources.messages import Decoder, Messages, decoded
from schemas import observations, quarantine


@dataclass(frozen=True)
class PollValidation:
    """Converts polled messages to valid rows and rejected rows.

    Attributes:
        source: the topic and its settings.
        decode: decodes the messages.
        decisions: the journal of the decisions that a re-read repeats.
    """

    source: KafkaTopic
    decode: Decoder
    decisions: Decisions

    def by_partition(self, polled: Mapping[int, Polled]) -> Iterator[tuple[int, PolledRows]]:
        """Yield the validated rows of each polled partition, with the number of the partition.

        A validation costs milliseconds, however few the rows are, so all partitions are validated together.
        """
        polls = PolledMessages.of({self.source.name(number): one for number, one in polled.items()})
        offsets = pl.Series(polls.offsets)
        messages = Messages.of([one.messages for one in polled.values()])
        rows, rejected, outside = (
            self._rows(polls, messages) if len(offsets) else (_NO_ROWS, _NONE_REJECTED, _NO_ROWS["offset"])
        )
        for (number, one), low, high in zip(polled.items(), polls.bounds[:-1], polls.bounds[1:], strict=True):
            file = pl.format(f"{self.source.topic}/{number}/{{}}", pl.col("offset"))
            mine = _part(rejected, int(low), int(high), offsets)
            yield (
                number,
                PolledRows(
                    # ``end`` may be greater than the offset after the last message:
                    # Kafka's markers of transactions have offsets, but are not messages.
                    max(one.offsets[-1] + 1 if one.offsets else 0, one.end or 0),
                    _part(rows, int(low), int(high), offsets),
                    mine.with_columns(file.alias("file")) if len(mine) else mine,
                    _part(outside.to_frame(), int(low), int(high), offsets)["offset"].to_numpy(),
                    max(one.came_ms[-1], 0) / 1000 if one.came_ms else 0.0,
                ),
            )

    def _rows(
        self, polls: PolledMessages, messages: Messages
    ) -> tuple[pl.DataFrame, pl.DataFrame, pl.Series]:
        """Validate a poll's messages; return valid rows, rejected rows, and rows outside the time bounds.

        In both frames, ``offset`` is the index of the row's message in ``messages``. Of a row outside the
        time bounds, only this index is returned.
        """
        known = refused(polls, self.decisions)
        max_future_s = self.source.input.max_future_s
        judge = None if max_future_s is None else Judge(polls, self.decisions, self.source.wall, max_future_s)
        parts = []
        for frame in decoded(self.decode, messages, known):
            refuse(polls, frame, known, self.decisions)
            parts.append(self._frame(frame, judge))
        if len(parts) == 1:
            return parts[0]
        rows, rejected, outside = zip(*parts, strict=True)
        return _by_offset(rows, _NO_ROWS), _by_offset(rejected, _NONE_REJECTED), pl.concat(outside).sort()

    def _frame(self, raw: pl.DataFrame, judge: Judge | None) -> tuple[pl.DataFrame, pl.DataFrame, pl.Series]:
        """Validate a raw frame; return valid rows, rejected rows, and indices of rows out of bounds."""
        how, message = self.source.input, raw["message"]
        first = np.searchsorted(message.to_numpy(), message.to_numpy())
        row = pl.Series("row", np.arange(len(raw)) - first + 1, pl.Int64)
        inside, left_out = how.within(raw.with_columns(row))
        places = inside["message"].to_numpy()

        def arrived_us(times_us: pl.Series, rows: pl.Series) -> pl.Series:
            assert judge is not None  # `validated` calls this function only if `max_future_s` is set
            return pl.Series(judge.clock_us(times_us.to_numpy(), places[rows.to_numpy()]))

        good, rejected = how.validated(inside, inside["message"], arrived_us)
        return good, rejected, _left_out(message, inside["message"]) if left_out else _NO_ROWS["offset"]


def _part(frame: pl.DataFrame, low: int, high: int, offsets: pl.Series) -> pl.DataFrame:
    """Return the rows of a poll's messages ``low`` to ``high - 1``, with their offsets in the partition.

    In ``frame``, ``offset`` is the index of a row's message in the poll; in the result, it is the offset of
    the message in the partition.
    """
    part = between(frame, low, high)
    return part.with_columns(offsets.gather(part["offset"]).alias("offset")) if len(part) else part


def _by_offset(frames: Sequence[pl.DataFrame], empty: pl.DataFrame) -> pl.DataFrame:
    """Join frames and sort the rows by ``offset``; the rows of one message stay in order."""
    return pl.concat([frame for frame in frames if len(frame)] or [empty]).sort("offset", maintain_order=True)


def _left_out(message: pl.Series, kept: pl.Series) -> pl.Series:
    """Return, for each row that was left out, the index of its message; an index may occur several times.

    ``message`` has the message index of every row, ``kept`` that of every row that was not left out.
    """
    count = message.value_counts().join(kept.value_counts(name="kept"), on="message", how="left")
    left_out = count.with_columns(pl.col("count") - pl.col("kept").fill_null(0)).filter(pl.col("count") > 0)
    return left_out.select(pl.col("message").repeat_by("count").explode()).to_series().sort().alias("offset")


_NO_ROWS, _NONE_REJECTED = observations.empty(offset=True), quarantine.empty(offset=True)
