"""Tests that cells of several columns are joined to one series id, and different cells to different ids."""

from __future__ import annotations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.settings.data_config import Columns
from pipelines.sources.messages.as_avro import frames_of
from pipelines.sources.messages.as_json import json_decoder
from pipelines.sources.messages.base import Messages
from pipelines.sources.messages.field_names import Names
from schemas import cells


def test_a_joined_id_escapes_slashes_and_needs_every_cell() -> None:
    """The id is null if a cell is null or blank. A single column is not joined, and its slashes stay."""
    parts = [pl.Series([3, 3, None, 4]), pl.Series(["tea", "a/b", "x", " "])]
    assert cells.joined_names(parts).to_list() == ["3/tea", "3/a%2Fb", None, None]
    assert cells.joined_names(parts[1:]).to_list() == ["tea", "a/b", "x", " "]


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.text("ab/", min_size=1, max_size=3)] * 2), unique=True, max_size=10))
def test_different_pairs_of_cells_give_different_series_ids(pairs: list[tuple[str, str]]) -> None:
    parts = [pl.Series([pair[i] for pair in pairs], dtype=pl.String) for i in (0, 1)]
    assert cells.joined_names(parts).n_unique() == len(pairs)


def test_several_message_fields_are_joined_into_the_series_id() -> None:
    names = Names.of(Columns(series_id=("store", "item")), series_in_key=False)
    lines = [b'{"store":3,"item":"tea","ds":"2013-01-01","y":1}', b'{"store":3,"ds":"2013-01-01","y":1}']
    (frame,) = json_decoder(names)(Messages(lines, [None, None]))
    assert frame["series_id"].to_list() == ["3/tea", None]
    records = [{"store": 3, "item": "tea", "ds": "2013-01-01", "y": 1.0}, {"store": 3, "ds": "x", "y": 1.0}]
    (frame,) = frames_of(records, names, [0, 1])
    assert frame["series_id"].to_list() == ["3/tea", None]
    in_key = Names.of(Columns(series_id=("store", "item")), series_in_key=True)
    assert "series_id" not in in_key.by_column
    assert in_key.parts == ()
