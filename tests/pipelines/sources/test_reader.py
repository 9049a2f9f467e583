"""Tests of `Reader`, which reads a source for the shards of a job and requests snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

from forecaster.shards.batch import Batch
from forecaster.shards.sharding import empty_batch
from pipelines.sources import reader as reading
from pipelines.sources.base import OnePartition, Position, Positions, Step
from pipelines.sources.reader import LONGEST_WAIT_S, request_stop
from pipelines.storage import Remote
from schemas.errors import DataError
from tests.pipelines.sources.logs import Clock
from tests.stores import in_memory


def batch(start: int, rows: int) -> Batch:
    frame = pl.DataFrame(
        {"series_id": ["a"] * rows, "value": [1.0] * rows, "offset": range(start, start + rows)}
    )
    return replace(empty_batch("log", start), stop=start + rows, rows=frame)


@dataclass
class Listed:
    """A source for tests; the dict ``steps`` holds the step that it returns for each offset.

    An offset without a listed step has no rows yet. The step None is the end of the source.
    """

    steps: dict[int, Step[int] | None]
    partition: str = "log"
    is_paced: bool = True

    def step(self, offset: int) -> Step[int] | None:
        return self.steps.get(offset, Step((), offset, 7.0))


class Read(NamedTuple):
    """The result of one read of a `Reader`; ``offset`` is the offset of partition ``log`` after the read."""

    batches: tuple[Batch, ...]
    offset: int
    wait_s: float
    ended: bool


class Reader(reading.Reader):
    """A reader of a source with one partition, ``log``."""

    def __init__(
        self,
        source: Listed,
        stop_file: Path,
        every_s: float,
        applied: Callable[[], int] | None = None,
        *more: Any,
        **named: Any,
    ) -> None:
        applied_offsets = None if applied is None else lambda: {"log": applied()}
        super().__init__(OnePartition(source), stop_file, every_s, applied_offsets, *more, **named)

    def at(self, offset: int) -> Read:
        read = self.next({"log": Position(offset)})
        return Read(read.batches, read.places["log"].offset, read.wait_s, read.ended)


@dataclass
class Keyed:
    """A keyed log, in which each partition belongs to one shard: t-0 and t-2 to shard 0, t-1 to shard 1.

    The partitions have no rows.
    """

    is_paced: bool = True

    def begin(self, reached: Positions) -> Positions:
        return {"t-0": Position(3, 7, shard=0), "t-1": Position(4, shard=1), "t-2": Position(5, shard=0)}

    def step(self, places: Positions) -> Step[Positions]:
        return Step((), places)


def test_keyed_batches_name_the_shard_assigned_to_their_partition(stop_file: Path, clock: Clock) -> None:
    places = Keyed().begin({})
    reader = reading.Reader(Keyed(), stop_file, 0.0, clock=clock)
    for expected in (
        [(0, "t-0", False), (1, "t-1", False), (0, "t-2", False)],
        [(0, "t-2", True), (1, "t-1", True)],
    ):
        read = reader.next(places)
        assert [(b.shard, b.partition, b.snapshot) for b in read.batches] == expected
        assert all(b.start == places[b.partition].offset for b in read.batches)
    request_stop(stop_file)
    read = reader.next(places)
    assert [(b.shard, b.snapshot, b.ends) for b in read.batches] == [(0, True, True), (1, True, True)]


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def stop_file(tmp_path: Path) -> Path:
    return tmp_path / "out" / ".stop"


@pytest.fixture
def store() -> Iterator[Remote]:
    """Yield an empty folder of an object store in memory."""
    with in_memory() as place:
        yield place


def ten_row_batches(count: int) -> Listed:
    return Listed(
        {10 * i: Step((batch(10 * i, 10),), 10 * i + 10) for i in range(count)} | {10 * count: None}
    )


def read_to_end(reader: Reader, offset: int = 0) -> list[Read]:
    found: list[Read] = []
    while not found or not found[-1].ended:
        found.append(reader.at(offset))
        offset = found[-1].offset
    return found


def batches(reads: Sequence[Read]) -> list[Batch]:
    return [batch for read in reads for batch in read.batches]


def is_empty(batch: Batch) -> bool:
    return batch.start == batch.stop and not len(batch.rows) and not len(batch.rejected)


def test_readers_first_yield_an_empty_batch_of_their_partition(stop_file: Path, clock: Clock) -> None:
    for offset in (0, 20):
        read = Reader(ten_row_batches(3), stop_file, 30, clock=clock).at(offset)
        (first,) = read.batches
        assert is_empty(first)
        assert (first.partition, first.start, first.watermark_us) == ("log", offset, None)
        assert not first.snapshot
        assert (read.offset, read.wait_s, read.ended) == (offset, 0.0, False)


def test_the_last_batch_of_a_log_requests_a_snapshot(stop_file: Path, clock: Clock) -> None:
    _, *between, last = batches(read_to_end(Reader(ten_row_batches(3), stop_file, 30, clock=clock)))
    assert [(b.start, b.stop) for b in between] == [(0, 10), (10, 20), (20, 30)]
    assert not any(b.snapshot or b.ends for b in between)
    assert is_empty(last)
    assert (last.start, last.snapshot, last.ends) == (30, True, True)


def test_while_rows_arrive_snapshots_are_requested_every_30_s(stop_file: Path, clock: Clock) -> None:
    reader, requests = Reader(ten_row_batches(100), stop_file, 30, clock=clock), []
    offset = reader.at(0).offset
    for _ in range(20):
        clock.now_s += 10
        read = reader.at(offset)
        offset = read.offset
        for found in read.batches:
            if found.snapshot:
                assert is_empty(found)
                assert not found.ends
                assert found is read.batches[-1]
                assert found.start == offset
                requests.append(clock.now_s)
    assert requests == [130, 160, 190, 220, 250, 280]


def test_the_reader_requests_snapshots_although_no_rows_arrive(stop_file: Path, clock: Clock) -> None:
    reader = Reader(Listed({}), stop_file, 30, clock=clock)
    reader.at(5)
    assert reader.at(5).batches == ()
    clock.now_s += 31
    (only,) = reader.at(5).batches
    assert (only.start, only.snapshot) == (5, True)


def test_a_wait_between_reads_is_at_most_longest_wait_s(stop_file: Path, clock: Clock) -> None:
    reader = Reader(Listed({}), stop_file, 30, clock=clock)
    reader.at(0)
    assert reader.at(0) == Read((), 0, LONGEST_WAIT_S, False)


def test_a_stop_file_ends_reading_and_requests_a_snapshot(stop_file: Path, clock: Clock) -> None:
    reader = Reader(ten_row_batches(3), stop_file, 30, clock=clock)
    reader.at(0)
    assert reader.at(0).offset == 10
    request_stop(stop_file)
    read = reader.at(10)
    (last,) = read.batches
    assert read.ended
    assert (last.start, last.stop, last.snapshot, last.ends, last.watermark_us) == (10, 10, True, True, None)


def test_the_reader_raises_the_error_of_a_source(stop_file: Path, clock: Clock) -> None:
    class Broken(Listed):
        def step(self, offset: int) -> Step[int] | None:
            raise DataError("the source is gone")

    reader = Reader(Broken({}), stop_file, 30, clock=clock)
    reader.at(0)
    with pytest.raises(DataError, match="the source is gone"):
        reader.at(0)


@pytest.fixture
def size() -> int:
    """Return the size in bytes of the rows in one batch of `ten_row_batches`."""
    return int(batch(0, 10).rows.estimated_size())


def test_reader_pauses_at_its_limit_until_shards_catch_up(stop_file: Path, clock: Clock, size: int) -> None:
    reached = 0
    reader = Reader(ten_row_batches(9), stop_file, 1e9, lambda: reached, 3 * size, clock=clock)
    offset, read_to = reader.at(0).offset, []
    for _ in range(30):
        read = reader.at(offset)
        assert read.ended or read.wait_s or len(batches([read])[0].rows)
        offset = read.offset
        read_to.append(offset)
    assert read_to[-1] == 40  # the reader pauses, because four unapplied batches exceed its size limit
    reached = 20
    assert [reader.at(offset).offset, reader.at(50).offset, reader.at(60).offset] == [50, 60, 60]
    reached = 60
    while not (read := reader.at(offset)).ended:
        offset, reached = read.offset, read.offset
    assert offset == 90


def test_a_batch_larger_than_max_unapplied_bytes_is_read(stop_file: Path, clock: Clock, size: int) -> None:
    reached = 0
    reader = Reader(ten_row_batches(3), stop_file, 1e9, lambda: reached, size // 2, clock=clock)
    offset = reader.at(0).offset
    for expected in (10, 20, 20):
        offset = reader.at(offset).offset
        assert offset == expected
    reached = 20
    assert reader.at(offset).offset == 30


def test_a_reader_waiting_for_shards_sends_empty_batches(stop_file: Path, clock: Clock, size: int) -> None:
    """A reader that waits for the shards sends empty batches to them, so that they publish their offsets.

    A shard publishes its offset only when it applies a batch, and not at each batch. Without the empty
    batches, it might never publish its last offset, and the reader would wait forever.
    """
    reader = Reader(ten_row_batches(9), stop_file, 1e9, lambda: 0, size, clock=clock)
    offset, requests = reader.at(0).offset, 0
    for _ in range(2):
        offset = reader.at(offset).offset
    for _ in range(100):
        clock.now_s += 0.02
        read = reader.at(offset)
        assert read.offset == offset == 20
        assert all(map(is_empty, read.batches))
        requests += len(read.batches)
    assert 3 <= requests <= 5


def test_a_reader_that_waits_for_shards_notices_the_stop_file(stop_file: Path, clock: Clock) -> None:
    reader = Reader(ten_row_batches(9), stop_file, 1e9, lambda: 0, 1, clock=clock)
    offset = reader.at(0).offset
    for _ in range(4):
        offset = reader.at(offset).offset
    request_stop(stop_file)
    assert reader.at(offset).ended


def test_applied_batches_do_not_accumulate_in_the_reader(stop_file: Path, clock: Clock) -> None:
    for applied in (None, lambda: 10**9):
        reader = Reader(ten_row_batches(3 * reading._MOST_AHEAD), stop_file, 1e9, applied, clock=clock)
        most, offset = 0, 0
        while not (read := reader.at(offset)).ended:
            most, offset = max(most, len(reader._ahead)), read.offset
        assert most <= reading._MOST_AHEAD + 1


def test_applied_offsets_are_read_only_above_max_unapplied_bytes(
    stop_file: Path, clock: Clock, size: int
) -> None:
    requests = []

    def applied() -> int:
        requests.append(clock.now_s)
        return 10**9

    reader = Reader(ten_row_batches(300), stop_file, 1e9, applied, 100 * size, clock=clock)
    read_to_end(reader)
    assert 2 <= len(requests) <= 3


def test_readers_wait_longer_for_shards_if_requests_are_billed(
    store: Remote, clock: Clock, size: int
) -> None:
    reader = reading.Reader(OnePartition(ten_row_batches(9)), store / ".stop", 1e9, dict, 1, clock=clock)
    places: Positions = {"log": Position(0)}
    for _ in range(3):
        places = reader.next(places).places
    assert [reader.next(places).wait_s for _ in range(3)] == [LONGEST_WAIT_S] * 3
