"""Tests of the batches and segments that training reads: their targets, and their use of memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from forecaster.components.network.inputs import network_inputs
from forecaster.config import NetworkConfig
from forecaster.time.frequency import Frequency
from forecaster.time.windows import Windows
from forecaster.training.batches import Fleet, fleet_of
from forecaster.training.segments import TrainingBatch
from tests.fleets import START

FREQ = Frequency(3600)


def network(horizon: int) -> NetworkConfig:
    return NetworkConfig(hidden=4, layers=1, horizon=horizon, lags=(1, 2), ring=4)


def walks(windows: int, series: int) -> Windows:
    """Return random walks with gaps; the second begins late, the third ends early."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(windows, series)).cumsum(axis=0)
    values[rng.random(values.shape) < 0.1] = np.nan
    values[: windows // 3, 1] = np.nan
    values[windows // 2 :, 2] = np.nan
    return Windows(tuple(f"s{i}" for i in range(series)), START, values)


def kept_bytes(batch: TrainingBatch) -> int:
    """Return the bytes of the inputs and of five other arrays of a batch; shared memory counts once."""
    buffers: dict[int, int] = {batch.x.data_ptr(): batch.x.nbytes}
    block = batch.block
    for array in (batch.ahead, block.history, block.last, block.unit, batch.first_target):
        owner: Any = array
        while owner.base is not None:
            owner = owner.base
        buffers[owner.__array_interface__["data"][0]] = owner.nbytes
    return sum(buffers.values())


def peak_bytes(fleet: Fleet, length: int) -> int:
    """Return the peak of allocated memory, in bytes, of a loop over all segments of all batches."""
    tracemalloc.start()
    try:
        for number in range(len(fleet.batches)):
            for _ in fleet.batch(number).segments(length):
                pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_longer_horizon_adds_only_padding_to_batch_memory() -> None:
    one, many = (fleet_of(walks(1000, 5), network(n), FREQ, 512).batch(0) for n in (1, 64))
    padding = 63 * 5 * 8
    assert kept_bytes(many) == kept_bytes(one) + padding


def test_training_never_holds_all_targets_in_memory() -> None:
    windows, series, length, horizon = 4000, 8, 16, 64
    fleets = [fleet_of(walks(windows, series), network(n), FREQ, 8) for n in (1, horizon)]
    near, far = (peak_bytes(fleet, length) for fleet in fleets)
    segment = length * series * horizon
    assert far - near < 64 * segment
    # The long horizon adds less than 1 byte per target; a copy of all targets would add 4 bytes per target.
    assert far - near < windows * series * horizon


def test_peak_batch_memory_does_not_grow_with_the_batch_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("forecaster.training.batches._KEPT_BYTES", 0)
    few, many = (peak_bytes(fleet_of(walks(500, n), network(4), FREQ, 8), 16) for n in (8, 80))
    assert many < 2.5 * few  # at most two batches are in memory at once


@pytest.mark.parametrize("held_from", [60, 41, 40, 17, 2])
@pytest.mark.parametrize("length", [7, 16, 100])
def test_training_and_held_out_targets_are_changes_in_units(held_from: int, length: int) -> None:
    windows, horizon = walks(60, 4), 5
    fleet = fleet_of(windows, network(horizon), FREQ, 2, held_from)
    seen = set()
    for number, index in enumerate(fleet.batches):
        batch = fleet.batch(number)
        parts = list(batch.segments(length))
        learned, held_out = (
            torch.cat(kind).numpy()
            for kind in ([part.learned for part in parts], [part.held_out for part in parts])
        )
        for column, series in enumerate(index):
            seen.add(windows.series_ids[series])
            own = windows.values[:, series]
            begin = int(np.flatnonzero(~np.isnan(own))[0])
            start, ridge = np.array([START + begin]), np.zeros((2, 4, horizon), np.float32)
            inputs = network_inputs(own[begin:, None], start, FREQ, fleet.network, ridge)
            np.testing.assert_array_equal(batch.x[: len(own) - begin, column], inputs.x[:, 0])
            for t in range(len(own) - begin):
                for n in range(1, horizon + 1):
                    row = begin + t + n
                    actual = own[row] if row < len(own) else np.nan
                    expected = np.clip(
                        (actual - inputs.block.last[t, 0]) / inputs.block.unit[t, 0], -200, 200
                    )
                    learns = row < held_from
                    found = (learned[t, column, n - 1], held_out[t, column, n - 1])
                    assert found == pytest.approx(
                        (expected, np.nan) if learns else (np.nan, expected), rel=1e-5, nan_ok=True
                    )
    assert seen == set(windows.series_ids)


@pytest.mark.parametrize("held_from", [0, 1, 2, 16, 17, 18, 59, 60])
@pytest.mark.parametrize("length", [2, 16, 59, 100])
def test_training_segment_count_excludes_segments_without_a_target(held_from: int, length: int) -> None:
    windows = walks(60, 6)
    fleet = fleet_of(windows, network(3), FREQ, 2, held_from)
    total = 0
    for number, index in enumerate(fleet.batches):
        begin = int(fleet.begins[index].min())
        firsts = range(0, len(windows.values) - begin, length)
        expected = sum(begin + first + 1 < held_from for first in firsts)
        assert fleet.count_training_segments(number, length) == expected
        total += expected
    assert fleet.steps(length) == total


def test_computing_a_batch_empties_a_cache_over_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = fleet_of(walks(60, 6), network(3), FREQ, 2)
    made = [fleet.batch(number) for number in range(3)]
    assert [fleet.batch(number) for number in range(3)] == made
    monkeypatch.setattr("forecaster.training.batches._KEPT_BYTES", 0)
    assert fleet.batch(1) is made[1]
    fleet = fleet_of(walks(60, 6), network(3), FREQ, 2)
    first = fleet.batch(0)
    assert fleet.batch(1) is fleet.batch(1)
    assert fleet.batch(0) is not first
    assert torch.equal(fleet.batch(0).x, first.x)
