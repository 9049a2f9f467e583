"""Every row that goes into a stateful step on Prism comes out once, and each key's state counts all of them.

Unless it is told not to, Prism splits a slow bundle in the middle of a key and starts a second bundle of that
key beside the first: both begin from the same state. Without ``prism_disable_sdf_split`` this test fails
every time with Beam 2.77.0: one key's rows are numbered from 1 twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from pipelines.runners.prism import PrismServer, prism_options

SOURCES = 4
BATCHES = 100  # of a source
ROWS = 200  # of a batch
KEYS = 5  # odd: a bundle that is cut in half is cut in the middle of a key
STALL_S = 0.3  # Prism splits a bundle whose counts stand still between two looks, 100 ms apart
STALL_EVERY = 4_000  # rows of a key

Row = tuple[int, int]


class Emit(beam.DoFn):
    """The rows of one batch, spread over the keys."""

    def process(self, batch: int) -> Iterator[Row]:
        for row in range(ROWS):
            yield row % KEYS, batch * ROWS + row


class Number(beam.DoFn):
    """Number the rows of each key from state, stalling now and then as a busy worker does."""

    COUNT = ReadModifyWriteStateSpec("count", VarIntCoder())

    def process(self, row: Row, count: Any = beam.DoFn.StateParam(COUNT)) -> Iterator[Row]:
        key, _ = row
        number = (count.read() or 0) + 1
        count.write(number)
        if number % STALL_EVERY == 1:
            time.sleep(STALL_S)
        yield key, number


@pytest.mark.prism
def test_every_row_that_goes_in_comes_out_once(tmp_path: Path) -> None:
    numbers: dict[int, list[int]] = {key: [] for key in range(KEYS)}
    _numbered_into[:] = [numbers]
    with (
        PrismServer(tmp_path / "prism.log") as server,
        beam.Pipeline(options=PipelineOptions(prism_options(server.endpoint))) as p,
    ):
        sources = [
            p
            | f"batches {s}" >> beam.Create([s * BATCHES + batch for batch in range(BATCHES)])
            | f"rows {s}" >> beam.ParDo(Emit()).with_output_types(Row)
            for s in range(SOURCES)
        ]
        (
            sources
            | beam.Flatten()
            | beam.ParDo(Number()).with_output_types(Row)
            | beam.Map(_collect).with_output_types(None)
        )
    rows = SOURCES * BATCHES * ROWS
    assert {key: sorted(seen) for key, seen in numbers.items()} == {
        key: list(range(1, rows // KEYS + 1)) for key in range(KEYS)
    }


# The workers run in this process, so that they can hand over what came out.
_numbered_into: list[dict[int, list[int]]] = []


def _collect(row: Row) -> None:
    key, number = row
    _numbered_into[0][key].append(number)
