"""Tests of the coders, by which Beam turns batches and frames into bytes and back."""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from apache_beam.coders.typecoders import registry
from hypothesis import given
from hypothesis import strategies as st

from forecaster.shards.batch import Batch
from forecaster.shards.sharding import empty_batch
from pipelines.beam.coders import ElementCoder, FleetRows, frame_bytes, frame_of
from schemas import observations, quarantine

FRAMES = st.sampled_from(
    [
        observations.empty(offset=True),
        quarantine.whole_file("f.csv", "no column timestamp", 7),
        pl.DataFrame(),
        pl.DataFrame({"series_id": ["a", None, "Zürich 🚲"], "value": [1.5, float("nan"), None]}),
        pl.DataFrame({"t": [datetime(2013, 1, 1, tzinfo=UTC)]}, schema={"t": pl.Datetime("us", "UTC")}),
        pl.DataFrame({"forecast": [[{"horizon": 1, "q50": 2.0}], []]}),
    ]
)
TIMES_US = st.integers(-(2**62), 2**62)
OFFSETS = st.integers(0, 2**62)
BATCHES = st.builds(
    Batch,
    partition=st.text(max_size=20),
    start=OFFSETS,
    stop=OFFSETS,
    rows=FRAMES,
    rejected=FRAMES,
    watermark_us=st.none() | TIMES_US,
    outside=OFFSETS,
    arrived_s=st.floats(0, 4e9),
    snapshot=st.booleans(),
    ends=st.booleans(),
)
FLEET_ROWS = st.builds(FleetRows, rows=FRAMES, ends=st.lists(TIMES_US, max_size=3).map(tuple))


def assert_equal(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    for name, value in vars(a).items():
        other = getattr(b, name)
        if isinstance(value, pl.DataFrame):
            assert value.equals(other)
            assert value.schema == other.schema
        else:
            assert value == other
            assert type(value) is type(other)


@given(element=BATCHES | FLEET_ROWS)
def test_a_coder_decodes_an_element_unchanged(element: Any) -> None:
    coder = ElementCoder(type(element))
    assert_equal(coder.decode(coder.encode(element)), element)


@given(frame=FRAMES)
def test_a_coder_decodes_a_frame_unchanged(frame: pl.DataFrame) -> None:
    coder = ElementCoder(pl.DataFrame)
    for again in (coder.decode(coder.encode(frame)), frame_of(frame_bytes(frame))):
        assert again.equals(frame)
        assert again.schema == frame.schema


@pytest.mark.parametrize("kind", [Batch, FleetRows, pl.DataFrame])
def test_beam_has_element_coders_for_batches_rows_and_frames(kind: type[Any]) -> None:
    coder = registry.get_coder(kind)
    assert coder == ElementCoder(kind)
    assert coder.to_type_hint() is kind
    assert hash(coder) == hash(ElementCoder(kind))
    assert coder != ElementCoder(int)


@given(element=BATCHES | FLEET_ROWS)
def test_the_estimated_size_sums_the_sizes_of_all_frames(element: Any) -> None:
    frames = [part for part in vars(element).values() if isinstance(part, pl.DataFrame)]
    size = ElementCoder(type(element)).estimate_size(element)
    assert size == sum(int(frame.estimated_size()) for frame in frames)
    assert ElementCoder(pl.DataFrame).estimate_size(frames[0]) == int(frames[0].estimated_size())


def test_an_encoded_element_is_a_json_header_and_arrow_data() -> None:
    data = ElementCoder(Batch).encode(empty_batch("replay", 7, snapshot=True))
    size = struct.unpack("<q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    assert (header["partition"], header["start"], header["snapshot"]) == ("replay", 7, True)
    rows = data[8 + size : 8 + size + header["rows"]["bytes"]]
    assert frame_of(rows).schema == observations.empty(offset=True).schema


def test_the_element_coder_is_not_deterministic() -> None:
    """Beam requires a deterministic coder only for keys, and elements are never keys."""
    assert not ElementCoder(Batch).is_deterministic()
