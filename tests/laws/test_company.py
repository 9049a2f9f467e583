"""Law: the forecasts of a series depend neither on other series nor on the number of shards."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.shards.shard import Shard
from forecaster.shards.sharding import reshard
from forecaster.stepping.advance import advance
from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_backfill
from pipelines.jobs.job import BackfillJob
from pipelines.sinks.files import read_forecasts
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from tests.comparisons import (
    YOUNG,
    assert_same,
    assert_same_frames,
    assert_same_live_series,
    by_key,
    sorted_rows,
)
from tests.fleets import SHORT_WEEK, fleets, forecaster, scales
from tests.folds import Ran, fold, fold_on
from tests.partitions import LONG_GAP, Logs, all_logs, cut, interleaved


@pytest.mark.parametrize(
    ("cell", "max_gap", "decoder"),
    [*product(("lstm", "gru", "rnn"), (2, 672), (False,)), ("lstm", 2, True)],
)
@settings(max_examples=6)
@given(fleet=fleets(series=10), data=st.data())
def test_forecasts_do_not_depend_on_other_series(
    cell: str, max_gap: int, decoder: bool, fleet: Windows, data: st.DataObject
) -> None:
    model = forecaster(cell, max_gap=max_gap, decoder=decoder, **({} if decoder else SHORT_WEEK))
    _, together = advance(model, model.initial_state(), fleet)
    order = data.draw(st.permutations(range(len(fleet.series_ids))))
    subset = order[: data.draw(st.integers(1, len(order)))]
    chosen = Windows(tuple(fleet.series_ids[i] for i in subset), fleet.start, fleet.values[:, subset])
    _, apart = advance(model, model.initial_state(), chosen)

    expected = {key: values for key, values in by_key([together]).items() if key[0] in chosen.series_ids}
    assert_same(expected, by_key([apart]), scales(fleet), within=1e-5 if decoder else YOUNG)


@pytest.mark.parametrize("max_gap", [2, LONG_GAP])
@settings(max_examples=8)
@given(logs=all_logs(), shards=st.integers(2, 9), windows_per_step=st.integers(1, 40))
def test_forecasts_do_not_depend_on_shard_count(
    max_gap: int, logs: Logs, shards: int, windows_per_step: int
) -> None:
    model = forecaster(max_gap=max_gap, **SHORT_WEEK)
    one = fold(model, logs.one_by_one(), 1, 32, logs.partitions)
    many = fold(model, logs.one_by_one(), shards, windows_per_step, logs.partitions)
    assert_same_outputs(one, many, logs)


@pytest.mark.parametrize("max_gap", [2, LONG_GAP])
@settings(max_examples=8)
@given(logs=all_logs(), numbers=st.lists(st.integers(1, 9), min_size=2, max_size=4), data=st.data())
def test_resharding_between_batches_changes_no_output(
    max_gap: int, logs: Logs, numbers: list[int], data: st.DataObject
) -> None:
    model = forecaster(max_gap=max_gap, **SHORT_WEEK)
    batches = interleaved(data.draw, [cut(data.draw, log) for log in logs.parts])
    bounds = sorted(data.draw(st.integers(0, len(batches))) for _ in numbers[1:])
    shards = [Shard.cold(n, numbers[0], model.initial_state(), logs.partitions) for n in range(numbers[0])]
    together = Ran()
    for of, first, stop in zip(numbers, [0, *bounds], [*bounds, len(batches)], strict=True):
        ran = fold_on(model, reshard(shards, of), [batches[first:stop]] * of)
        together.shards = shards = ran.shards
        together.forecasts += ran.forecasts
        together.late += ran.late
        together.quarantined += ran.quarantined
    assert_same_outputs(fold(model, batches, 1, partitions=logs.partitions), together, logs)


def assert_same_outputs(one: Ran, other: Ran, logs: Logs) -> None:
    # Do not compare the numbers of windows, because they depend on how series are assigned to shards.
    assert replace(one.counts, windows=0) == replace(other.counts, windows=0)
    assert_same(by_key(one.forecasts), by_key(other.forecasts), logs.scale, within=YOUNG)
    assert sorted_rows(one.late).equals(sorted_rows(other.late))
    assert sorted_rows(one.quarantined).equals(sorted_rows(other.quarantined))
    assert_same_live_series(one.states, other.states)


@pytest.mark.parametrize("decoder", [False, True])
def test_backfill_forecasts_do_not_depend_on_shard_count(
    decoder: bool, small_fleet: Windows, small_file: Path, tmp_path: Path
) -> None:
    model = forecaster(decoder=decoder)
    frames = {}
    for shards in (1, 3, 8):
        output = tmp_path / str(shards)
        job = BackfillJob(model, (str(small_file),), Input(Columns()), output, shards=shards)
        assert run_backfill(job).counts.missing == 0
        frames[shards] = read_forecasts(output)
    assert_same_frames(frames[1], frames[3], scales(small_fleet))
    assert_same_frames(frames[1], frames[8], scales(small_fleet))
    _, forecasts = advance(model, model.initial_state(), small_fleet)
    # With ``decoder=True``, the test's model has covariates. The forecasts of a backfill that ignored them
    # would differ from the forecasts of `advance`.
    assert_same_frames(frames[1], forecasts.frame(), scales(small_fleet))
