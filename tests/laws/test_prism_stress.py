"""Law: a Beam step with a state for each key, run on Prism, emits each row once and loses no state.

The test needs the option ``prism_disable_sdf_split`` of Prism. Without it, Prism in Beam 2.77.0 splits a slow
bundle in the middle of a key. It then runs two bundles of this key at the same time, and both begin with the
same state, so the rows of the key are numbered from 1 twice.
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
BATCHES = 100  # number of batches that each source emits
ROWS = 200  # number of rows in each batch
KEYS = 5  # an odd number: without ``prism_disable_sdf_split``, Prism splits a bundle in the middle of a key
STALL_S = 0.3  # Prism splits a bundle if its element counts do not change between two checks, 100 ms apart
STALL_EVERY = 4_000  # the step sleeps once in every 4,000 rows of a key

Row = tuple[int, int]


class Emit(beam.DoFn):
    """Emit the rows of one batch; the key of a row is a number below `KEYS`."""

    def process(self, batch: int) -> Iterator[Row]:
        for row in range(ROWS):
            yield row % KEYS, batch * ROWS + row


class Number(beam.DoFn):
    """Number the rows of each key from 1 with a counter in the key's state.

    At some rows, sleep for `STALL_S`, so that the worker is slow.
    """

    COUNT = ReadModifyWriteStateSpec("count", VarIntCoder())

    def process(self, row: Row, count: Any = beam.DoFn.StateParam(COUNT)) -> Iterator[Row]:
        key, _ = row
        number = (count.read() or 0) + 1
        count.write(number)
        if number % STALL_EVERY == 1:
            time.sleep(STALL_S)
        yield key, number


@pytest.mark.prism
def test_a_stateful_beam_step_on_prism_numbers_every_row_once(tmp_path: Path) -> None:
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


# The workers of Prism run as threads of this process, so they can append to a global variable.
_numbered_into: list[dict[int, list[int]]] = []


def _collect(row: Row) -> None:
    key, number = row
    _numbered_into[0][key].append(number)
