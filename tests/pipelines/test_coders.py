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

from pipelines.coders import Batch, ElementCoder, Issued, ShardState, frame_bytes, frame_of
from schemas import observations

FRAMES = st.sampled_from(
    [
        observations.empty(),
        pl.DataFrame(),
        pl.DataFrame({"series_id": ["a", None, "Zürich 🚲"], "value": [1.5, float("nan"), None]}),
        pl.DataFrame({"t": [datetime(2013, 1, 1, tzinfo=UTC)]}, schema={"t": pl.Datetime("us", "UTC")}),
        pl.DataFrame({"forecast": [[{"horizon": 1, "q50": 2.0}], []]}),
    ]
)
TIMES_US = st.integers(-(2**62), 2**62)
SECONDS = st.floats(0, 4e9)
BATCHES = st.builds(Batch, FRAMES, st.lists(TIMES_US, max_size=3).map(tuple), st.none() | TIMES_US, SECONDS)
ISSUED = st.builds(
    Issued, FRAMES, st.integers(0, 99), st.integers(0, 10**9), st.lists(SECONDS, max_size=3).map(tuple)
)
SHARD_STATES = st.builds(
    ShardState, FRAMES, st.binary(max_size=50), st.integers(0, 99), st.none() | st.integers(-9, 9)
)


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


@given(element=BATCHES | ISSUED | SHARD_STATES)
def test_an_element_comes_back_as_it_was(element: Any) -> None:
    coder = ElementCoder(type(element))
    assert_equal(coder.decode(coder.encode(element)), element)


@given(frame=FRAMES)
def test_a_frame_comes_back_as_it_was(frame: pl.DataFrame) -> None:
    coder = ElementCoder(pl.DataFrame)
    for again in (coder.decode(coder.encode(frame)), frame_of(frame_bytes(frame))):
        assert again.equals(frame)
        assert again.schema == frame.schema


@pytest.mark.parametrize("kind", [Batch, Issued, ShardState, pl.DataFrame])
def test_beam_finds_the_coder_by_the_type(kind: type[Any]) -> None:
    coder = registry.get_coder(kind)
    assert coder == ElementCoder(kind)
    assert coder.to_type_hint() is kind
    assert hash(coder) == hash(ElementCoder(kind))
    assert coder != ElementCoder(int)


def test_an_element_crosses_borders_as_json_and_arrow_never_as_a_pickle() -> None:
    data = ElementCoder(Batch).encode(Batch(observations.empty(), (1, 2), None, 3.5))
    size = struct.unpack("<q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    assert header["closes"] == [1, 2]
    assert frame_of(data[8 + size :]).schema == observations.empty().schema


def test_an_element_is_never_a_key() -> None:
    assert not ElementCoder(Batch).is_deterministic()
