"""Tests of the counts of quarantined rows by kind of reason.

The kinds are a fixed set: no text of a row becomes a kind.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from forecaster.shards import snapshot
from forecaster.shards.counts import Counts, by_kind
from forecaster.shards.shard import Shard
from schemas import labels, observations, quarantine
from tests.fleets import forecaster

tricky_texts = ["x; y", "a'; 'b", "' is not a number; ", "time is missing", "nan"]
texts = st.text(max_size=12) | st.sampled_from(tricky_texts)
rows = st.lists(
    st.tuples(texts, texts, texts, texts, st.none() | st.sampled_from(tricky_texts)),
    min_size=1,
    max_size=8,
)


def raw(cells: list[tuple[Any, ...]]) -> pl.DataFrame:
    names = ["series_id", "timestamp", "value", "observed.heat", "problem"]
    return pl.DataFrame(cells, schema=dict.fromkeys(names, pl.String), orient="row")


@given(cells=rows)
def test_each_quarantined_row_has_one_of_the_fixed_kinds(cells: list[tuple[Any, ...]]) -> None:
    frame = raw(cells)
    _, rejected = observations.validate(frame)
    _, unlabelled = labels.validate(frame, ["value"])
    for found in (rejected, unlabelled):
        assert set(found["kind"]) <= set(quarantine.KINDS)
        quarantine.QuarantinedRow.validate(found)
    counts = Counts(quarantined=by_kind(rejected))
    assert counts.quarantined == by_kind(rejected)
    assert counts.rejected == len(rejected)


def test_values_with_semicolons_are_counted_as_one_fault_kind() -> None:
    good = ("a", "2013-01-01", "1", "", None)
    _, rejected = observations.validate(raw([(*good[:2], f"{n}; {n}", "", None) for n in range(5)]))
    assert by_kind(rejected) == {"is not a number": 5}


def test_quarantined_rows_of_an_unknown_kind_count_as_other() -> None:
    frame = raw([("a", "b", "c", "", "why; so")] * 3)
    frame = frame.with_columns(problem_kind=pl.Series(["message is empty", None, "made up"]))
    _, rejected = observations.validate(frame)
    counts = Counts(quarantined=by_kind(rejected))
    assert counts.quarantined == {"message is empty": 1, "row cannot be read": 1, "other": 1}


def test_unknown_row_fault_kinds_in_snapshots_count_as_other() -> None:
    table = snapshot.to_arrow(Shard.cold(0, 1, forecaster().initial_state(), ()))
    key = b"statecast.shard"
    metadata = json.loads(table.schema.metadata[key])
    earlier = {"is not a number": 2, "is no JSON object": 3, "'x": 4, "y": 5}
    metadata["counts"] = asdict(Counts(rows_in=14)) | {"quarantined": earlier}
    kept = {name: text for name, text in table.schema.metadata.items() if b"crc32" not in name}
    table = table.replace_schema_metadata({**kept, key: json.dumps(metadata).encode()})
    counts = snapshot.from_arrow(table).counts
    assert counts.quarantined == {"is not a number": 2, "other": 12}
    assert counts.missing == 0
