"""Law: scores and drift do not depend on the size of blocks, the number of shards or restarts of the job.

Every issued forecast whose actual is known is scored once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.components.profile import Profile
from forecaster.components.scores import scored_horizons
from forecaster.evaluation.drift import InputDrift, drift_of
from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.shards import snapshot
from forecaster.time.windows import Windows
from tests.comparisons import assert_same_scores
from tests.fleets import HALF_A_DAY_US, SHORT_WEEK, START, forecaster, rows_of
from tests.folds import Arrival, Ran, batches_of, fold, fold_on
from tests.partitions import LONG_GAP, Logs, all_logs, cut


def model_with_profile() -> Forecaster:
    """Return a forecaster whose profile contains the series ``s0`` to ``s2``, with random deciles.

    `all_logs` may generate fewer or more series.
    """
    rng = np.random.default_rng(0)
    edges = np.sort(rng.normal(scale=300.0, size=(3, 1, 9)), axis=2).astype(np.float32)
    shares = np.full((3, 1, 10), 0.1, np.float32)
    return replace(
        forecaster(max_gap=LONG_GAP, **SHORT_WEEK),
        profile=Profile(("value",), ("s0", "s1", "s2"), edges, shares),
    )


def drift(model: Forecaster, ran: Ran) -> dict[str, InputDrift]:
    found: dict[str, InputDrift] = {}
    for state in ran.states:
        for name, part in drift_of(model.profile, state).items():
            found[name] = found.get(name, InputDrift()) + part
    return found


@given(logs=all_logs(), data=st.data(), shards=st.integers(1, 3), windows_per_step=st.integers(1, 40))
def test_scores_and_drift_do_not_depend_on_blocks_or_shards(
    logs: Logs, data: st.DataObject, shards: int, windows_per_step: int
) -> None:
    model = model_with_profile()
    whole = fold(model, logs.one_by_one(), 2, 32, logs.partitions)
    pieces = [batch for log in logs.parts for batch in cut(data.draw, log)]
    other = fold(model, pieces, shards, windows_per_step, logs.partitions)
    assert_same_scores(whole.counts.scores, other.counts.scores)
    assert {n: d.observed for n, d in drift(model, whole).items()} == {
        n: d.observed for n, d in drift(model, other).items()
    }


@pytest.mark.parametrize("place", [3, 7, 12])
def test_scores_and_drift_are_restored_from_a_snapshot(place: int) -> None:
    model, rng = model_with_profile(), np.random.default_rng(4)
    fleet = Windows(("s0", "s1", "x"), START // 12, rng.normal(size=(16, 3)).cumsum(axis=0))
    rows = rows_of(fleet, HALF_A_DAY_US).sort("timestamp")
    ends = [(fleet.start + window + 1) * HALF_A_DAY_US for window in range(16)]
    batches = batches_of([Arrival(rows[3 * w : 3 * w + 3], end_us) for w, end_us in enumerate(ends)])
    whole = fold(model, batches, 2)
    before = fold(model, batches[:place], 2)
    restored = [snapshot.from_bytes(snapshot.to_bytes(shard)) for shard in before.shards]
    after = fold_on(model, restored, [batches[place:]] * 2)
    assert before.counts.scores[model.version][1].scored > 0
    assert after.counts.scores == whole.counts.scores
    assert drift(model, after) == drift(model, whole)


@given(logs=all_logs())
def test_every_scored_forecast_was_issued_and_is_scored_once(logs: Logs) -> None:
    model = model_with_profile()
    ran = fold(model, logs.one_by_one(), 2, 4, logs.partitions)
    blocks = [block for block in ran.forecasts if block is not None]
    issued = {key for block in blocks for key in _keys(block, block.issued)}
    horizons = scored_horizons(model.network_config.horizon)
    for place, horizon in enumerate(horizons):
        scored = [
            (name, window - horizon)
            for block in blocks
            if block.scores is not None
            for name, window in _keys(block, ~np.isnan(block.scores[0, ..., place]))
        ]
        assert len(scored) == len(set(scored))
        assert set(scored) <= issued
        sums = ran.counts.scores.get(model.version, {})
        assert (sums[horizon].scored if horizon in sums else 0) == len(scored)


def _keys(block: Forecasts, which: np.ndarray) -> list[tuple[str, int]]:
    """Return the series id and the window of each entry that is True in ``which`` ``[T, S]``."""
    at = zip(*np.nonzero(which), strict=True)
    return [(block.series_ids[s], int(block.index[t])) for t, s in at]
