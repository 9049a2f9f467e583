"""Tests of several versions of one event: which version counts, and which forecasts are revised."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from forecaster.shards import snapshot
from forecaster.shards.apply import apply
from forecaster.shards.batch import Batch
from forecaster.shards.counts import Counts
from forecaster.shards.models import Models
from forecaster.shards.shard import Output, Shard
from forecaster.time.duplicates import Keep
from tests.fleets import HOUR_US, START, forecaster
from tests.forecaster.shards.test_repair import batches, revised


def corrected(version_of: int, window: int, arrives: int) -> list[Batch]:
    """Return 12 batches, each with an event of ``a`` and one of ``b``; one event has a second version.

    The event of ``a`` in the window ``version_of`` has the second version. This version is in ``window``, has
    the value 99, and comes with the batch of the window ``arrives``.
    """
    every = []
    for number, batch in enumerate(batches(12, {})):
        event = pl.format("{} {}", "series_id", pl.lit(number))
        rows = batch.rows.with_columns(event_id=event)
        if number == arrives:
            version = rows.filter(pl.col("series_id") == "a").with_columns(
                timestamp=pl.lit((START + window) * HOUR_US + 1).cast(pl.Datetime("us", "UTC")),
                value=pl.lit(99.0),
                event_id=pl.lit(f"a {version_of}"),
                offset=pl.lit(batch.stop, pl.Int64),
            )
            rows = pl.concat([rows, version])
        shift = int(number > arrives)
        moved = rows.with_columns(pl.col("offset") + shift)
        stop = batch.stop + int(number >= arrives)
        every.append(replace(batch, start=batch.start + shift, stop=stop, rows=moved))
    return every


def run(some: list[Batch], repair: int, keep: Keep = "last") -> tuple[Counts, list[Output]]:
    """Apply batches to a shard, and return its counts and outputs.

    After each batch, the shard is written as a snapshot and read again.
    """
    model, found = forecaster(), list[Output]()
    shard = Shard.cold(0, 1, model.initial_state(), ["rows"])
    for batch in some:
        for after, output in apply(shard, batch, Models(model, repair=repair, duplicates=keep), 4):
            shard = after
            found.append(output)
        shard = snapshot.from_bytes(snapshot.to_bytes(shard))
    assert shard.counts.missing == shard.counts.pending == 0
    return shard.counts, found


def replaced_rows(outputs: list[Output]) -> list[tuple[str | float, ...]]:
    """Return the event id of each replaced row, and the value of the row that replaced it."""
    every = pl.concat([one.replaced for one in outputs], how="diagonal")
    return every.select("event_id", "replaced_by").rows()


@pytest.mark.parametrize(("window", "arrives"), [(7, 8), (3, 8), (8, 8)])
def test_changed_event_times_revise_forecasts_from_the_earlier_window(window: int, arrives: int) -> None:
    counts, outputs = run(corrected(5, window, arrives), repair=6)
    assert revised(outputs) == [("a", w, 1) for w in range(min(5, window), 8)]
    assert (counts.used, counts.duplicates, counts.replaced, counts.repaired) == (24, 1, 1, 1)
    assert replaced_rows(outputs) == [("a 5", 99.0)]


def test_revised_forecasts_have_offset_of_the_newer_event_version() -> None:
    some = corrected(5, window=8, arrives=8)
    _, outputs = run(some, repair=6)
    assert {(one.partition, one.start) for one in outputs if one.revises} == {("rows", some[8].stop - 1)}


def test_second_event_version_replaces_the_first_in_open_windows() -> None:
    counts, outputs = run(corrected(8, 8, 8), repair=0)
    assert (counts.used, counts.duplicates, counts.replaced, counts.repaired) == (24, 1, 1, 0)
    assert replaced_rows(outputs) == [("a 8", 99.0)]


@pytest.mark.parametrize("repair", [0, 2])
def test_both_versions_count_if_repair_cannot_reach_the_first(repair: int) -> None:
    counts, outputs = run(corrected(5, 8, 8), repair)
    assert (counts.used, counts.duplicates, counts.late) == (25, 0, 0)
    assert not any(one.revises for one in outputs)


def test_versions_too_late_for_repair_only_count_as_late() -> None:
    counts, outputs = run(corrected(8, 3, 9), repair=3)
    assert (counts.used, counts.duplicates, counts.late) == (24, 0, 1)
    assert not any(one.revises for one in outputs)


@pytest.mark.parametrize("window", [3, 5, 7, 8])
def test_keep_first_uses_the_first_version_of_an_event(window: int) -> None:
    some = corrected(5, window, 8)
    counts, outputs = run(some, repair=6, keep="first")
    assert (counts.used, counts.duplicates, counts.replaced) == (24, 1, 1)
    first = some[5].rows.filter(pl.col("series_id") == "a")["value"][0]
    assert replaced_rows(outputs) == [("a 5", first)]


@pytest.mark.parametrize(("keep", "value"), [("last", 99.0), ("first", 2.0)])
def test_the_setting_duplicates_decides_which_row_counts(keep: Keep, value: float) -> None:
    some = [replace(batch, rows=batch.rows.drop("event_id")) for batch in corrected(5, 5, 5)]
    rows = some[5].rows.with_columns(
        timestamp=pl.lit((START + 5) * HOUR_US).cast(pl.Datetime("us", "UTC")),
        value=pl.when(pl.col("value") == 99).then(99.0).otherwise(2.0),
    )
    some[5] = replace(some[5], rows=rows)
    counts, outputs = run(some, repair=0, keep=keep)
    assert (counts.used, counts.duplicates) == (24, 1)
    (lost,) = [one.replaced for one in outputs if len(one.replaced)]
    assert lost["replaced_by"].to_list() == [value]
