"""Law: a series' forecasts depend neither on the series beside it nor on the number of shards."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.stepping import advance
from forecaster.windows import Windows
from pipelines.jobs.backfill import BackfillJob, run_backfill
from pipelines.sinks.files import read_forecasts
from pipelines.sources.feeds import Input
from pipelines.sources.tables import Columns
from tests.fleets import (
    Arrival,
    assert_same,
    assert_same_frames,
    by_key,
    fleets,
    forecaster,
    rows_of,
    run_shards,
    scales,
)


@pytest.mark.parametrize("max_gap", [2, 672])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@given(fleet=fleets(), data=st.data())
def test_a_series_is_forecast_alone_as_it_is_in_company(
    cell: str, max_gap: int, fleet: Windows, data: st.DataObject
) -> None:
    model = forecaster(cell, max_gap=max_gap)
    _, together = advance(model, model.initial_state(), fleet)
    order = data.draw(st.permutations(range(len(fleet.series_ids))))
    some = order[: data.draw(st.integers(1, len(order)))]
    chosen = Windows(tuple(fleet.series_ids[i] for i in some), fleet.start, fleet.values[:, some])
    _, apart = advance(model, model.initial_state(), chosen)

    expected = {key: values for key, values in by_key([together]).items() if key[0] in chosen.series_ids}
    assert_same(expected, by_key([apart]), scales(fleet))


@given(fleet=fleets(), shards=st.integers(2, 9), windows_per_step=st.integers(1, 40))
def test_the_number_of_shards_is_of_no_matter(fleet: Windows, shards: int, windows_per_step: int) -> None:
    model = forecaster()
    arrival = Arrival(rows_of(fleet), fleet.stop * 3_600_000_000)
    one = run_shards(model, [arrival], 1)
    many = run_shards(model, [arrival], shards, windows_per_step)
    assert_same(by_key(one.forecasts), by_key(many.forecasts), scales(fleet))


def test_a_backfill_gives_the_same_forecasts_with_1_3_and_8_shards(
    small_fleet: Windows, small_file: Path, tmp_path: Path
) -> None:
    frames = {}
    for shards in (1, 3, 8):
        output = tmp_path / str(shards)
        job = BackfillJob(forecaster(), (str(small_file),), Input(Columns()), output, shards=shards)
        assert run_backfill(job).counts.missing == 0
        frames[shards] = read_forecasts(output)
    assert_same_frames(frames[1], frames[3], scales(small_fleet))
    assert_same_frames(frames[1], frames[8], scales(small_fleet))
