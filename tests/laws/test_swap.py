"""Law: after a model change, a stream forecasts as if the new version had been re-warmed at the change.

The stream re-warms the new version in parts, before the window of the change. The result must equal a re-warm
of the whole ring at the window.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.model import Forecaster
from forecaster.shards.batch import Batch
from forecaster.shards.models import ModelChange, Models
from forecaster.shards.shard import Output, Shard
from forecaster.state import State
from forecaster.stepping.advance import advance
from forecaster.stepping.rewarming import Warming, rewarm
from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_stream
from pipelines.sinks.files import PARTS, read_forecasts
from pipelines.sinks.numbers import read_shards
from pipelines.sources.model_changes import Request, read_changes, request_change, store_model
from tests import held_stream
from tests.comparisons import YOUNG, assert_same, assert_same_frames, assert_same_state, by_key
from tests.disks import outputs
from tests.fleets import HALF_A_DAY, SHORT_WEEK, START, forecaster, scales
from tests.folds import Ran, fold
from tests.forked import ForkedProcess
from tests.laws.test_crash import fold_with_kills
from tests.logs import job_of, small_log
from tests.partitions import LONG_GAP, Logs, all_logs
from tests.power import PowerLoss
from tests.stores import forecasts_written

FIRST = START // 12  # no row of the logs belongs to a window before this window


def warmed_in_parts(
    old: Forecaster, changes: tuple[ModelChange, ...], is_due: Callable[[], bool], call_steps: int
) -> Callable[[Shard, Iterable[Batch], int], Iterator[tuple[Shard, Output]]]:
    """Return a function that applies batches to a shard and re-warms the new versions in parts.

    After each output, ``is_due`` decides whether a new version is stepped through values that it lacks, and
    through how many.
    """

    def steps(shard: Shard, batches: Iterable[Batch], per_step: int) -> Iterator[tuple[Shard, Output]]:
        warming = {c.forecaster.version: Warming(c.forecaster, c.window, call_steps) for c in changes}

        def finish(new: Forecaster, state: State) -> State:
            return warming[new.version].finish(state)

        for after, output in outputs(Models(old, changes, finish), shard, batches, per_step):
            yield after, output
            closed = after.closed_through
            for one in warming.values():
                if closed is not None and closed < one.window and is_due():
                    one.copy_values(after.state, closed)
                    while is_due() and one.step():
                        pass

    return steps


def assert_versions(ran: Ran, models: Models) -> None:
    """Assert that each forecast is from the version that is in use when its window closes."""
    for part in ran.forecasts:
        if part is not None and len(part):
            of_windows = {models.of_window(int(window)).version for window in part.index}
            assert of_windows == {part.model_version}


@pytest.mark.parametrize(
    ("max_gap", "aggregate", "empty"),
    [(3, "sum", "missing"), (LONG_GAP, "mean", "missing"), (3, "mean", "zero")],
)
@settings(max_examples=8)
@given(
    logs=all_logs(),
    windows=st.lists(st.integers(0, 240), min_size=1, max_size=2, unique=True).map(sorted),
    shards=st.integers(1, 3),
    kills=st.integers(0, 3),
    seed=st.integers(0, 99),
    often=st.sampled_from([0.1, 0.9]),
    call_steps=st.sampled_from([2, 9, 1000]),
    data=st.data(),
)
def test_rewarming_in_parts_gives_the_forecasts_of_one_rewarm(
    max_gap: int,
    aggregate: str,
    empty: str,
    logs: Logs,
    windows: list[int],
    shards: int,
    kills: int,
    seed: int,
    often: float,
    call_steps: int,
    data: st.DataObject,
) -> None:
    make = partial(forecaster, aggregate=aggregate, empty=empty, max_gap=max_gap, **SHORT_WEEK)
    old, new = make("lstm"), (make("gru"), make("lstm", seed=1))
    changes = tuple(ModelChange(FIRST + w // 6, f) for w, f in zip(windows, new, strict=False))
    models, chance = Models(old, changes), np.random.default_rng(seed)
    at_once = fold(models, logs.one_by_one(), shards, partitions=logs.partitions)
    steps = warmed_in_parts(old, changes, lambda: bool(chance.random() < often), call_steps)
    in_parts = fold_with_kills(old, logs, shards, kills, data.draw, steps)

    assert in_parts.counts == at_once.counts
    assert at_once.counts.missing == at_once.counts.pending == 0
    for ran in (at_once, in_parts):
        assert_versions(ran, models)
    scale = logs.scale_of_sums() if aggregate == "sum" else logs.scale
    if empty == "zero":  # a window without a row has the value 0, so changes can be as large as values
        values = pl.concat([log.rows for log in logs.parts]).group_by("series_id")
        largest = dict(values.agg(pl.col("value").abs().max()).rows())
        scale = {name: own + largest.get(name, 0.0) for name, own in scale.items()}
    assert_same(by_key(at_once.forecasts), by_key(in_parts.forecasts), scale, within=YOUNG)


@given(
    cuts=st.lists(st.integers(1, 59), max_size=6, unique=True).map(sorted),
    ring=st.sampled_from([5, 20, 100]),
    new_ring=st.sampled_from([5, 20, 100]),
    call_steps=st.sampled_from([1, 7, 100]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_rewarm_in_parts_gives_the_state_of_a_rewarm_at_once(
    cuts: list[int], ring: int, new_ring: int, call_steps: int, seed: int
) -> None:
    old, new = forecaster("lstm", ring=ring), forecaster("gru", ring=new_ring)
    rng = np.random.default_rng(seed)
    values = 100 + rng.normal(size=(60, 4)).cumsum(axis=0)
    values[rng.random(values.shape) < 0.2] = np.nan
    values[: rng.integers(0, 60), 3] = np.nan
    fleet = Windows(tuple("abcd"), START, values)
    state, warming = old.initial_state(), Warming(new, fleet.stop, call_steps)
    for start, stop in pairwise([0, *cuts, 60]):
        state, _ = advance(old, state, fleet.between(START + start, START + stop))
        if stop < 60:
            warming.copy_values(state, START + stop - 1)
            for _ in range(rng.integers(0, 9)):  # a call does nothing if no values are left to step
                warming.step()
    expected, found = rewarm(new, state), warming.finish(state)
    assert_same_state(expected, found)
    after = Windows(fleet.series_ids, fleet.stop, 100 + rng.normal(size=(5, 4)))
    one, other = (by_key([advance(new, warm, after)[1]]) for warm in (expected, found))
    assert_same(one, other, scales(fleet), within=YOUNG)


def test_after_power_loss_a_stream_changes_models_as_journaled(tmp_path: Path) -> None:
    log, scale = small_log(windows=40)
    old, new = forecaster(**SHORT_WEEK), forecaster("gru", seed=3, **SHORT_WEEK)
    output = tmp_path / "out"
    job = replace(job_of(log, output, shards=2, windows_per_step=1), follows=True)
    output.mkdir()
    store_model(output, new)
    request_change(output, Request(new.version, "weather/2", 8))
    power = PowerLoss(output, (".numbers", ".lock", ".ended", ".run"), every_prefix=False, slow=PARTS)
    with power.record():
        run_stream(job)

    @cache
    def whole_with_change(window: int) -> Ran:
        return fold(Models(old, (ModelChange(window, new),)), log.batches(), partitions=(log.partition,))

    # A power loss can happen before a model change is decided, during the re-warm, at the change or later.
    for files in random.Random(6).sample(power.states, 14):
        power.restore(files)
        request_change(job.output, Request(new.version, "weather/2", 8))
        ended = run_stream(replace(job, windows_per_step=3))
        window = read_changes(job.states)[1].window
        assert window is not None
        whole = whole_with_change(window)
        assert replace(ended.counts, windows=0) == replace(whole.counts, windows=0)
        expected = pl.concat(part.frame() for part in whole.forecasts if part is not None and len(part))
        issued = read_forecasts(job.output)
        assert_same_frames(expected, issued, scale, within=YOUNG)
        assert forecasts_written(job.output) == len(issued)


def wait_until_closed(output: Path, closed_us: int, process: ForkedProcess) -> None:
    """Wait until all shards of a stream in another process have closed the window that ends at ``closed_us``.

    Fail if the process ends before, or takes too long.
    """
    given_up_s = time.monotonic() + 60
    while min((shard.closed_us or 0 for shard in read_shards(output)), default=0) < closed_us:
        assert process.poll() is None
        assert time.monotonic() < given_up_s
        time.sleep(0.05)


def test_kills_around_a_model_change_alter_no_forecast(tmp_path: Path) -> None:
    new = forecaster("gru", seed=3, **SHORT_WEEK)
    outputs_of = tmp_path / "clean", tmp_path / "killed"
    clean, killed = (held_stream.job(output) for output in outputs_of)
    for output in outputs_of:
        output.mkdir()
        store_model(output, new)
        request_change(output, Request(new.version, "weather/2", 8))
    run_stream(clean)
    window = read_changes(clean.states)[1].window
    assert window is not None
    # Kill the stream during the re-warm, at the model change, and later.
    for closed in (window - 3, window - 1, window + 2):
        closed_us = HALF_A_DAY.end_us(closed)
        held = next(at for at, us in sorted(held_stream.LOG.watermarks_us.items()) if us >= closed_us)
        process = ForkedProcess(["-m", "tests.held_stream", str(killed.output), str(held)])
        try:
            wait_until_closed(output, closed_us, process)
        finally:
            process.kill()
            process.wait()
    run_stream(killed)
    assert read_changes(killed.states) == read_changes(clean.states)
    issued = read_forecasts(killed.output)
    assert_same_frames(read_forecasts(clean.output), issued, held_stream.SCALE, within=YOUNG)
    assert forecasts_written(killed.output) == len(issued)
