"""Tests of the component that scores the forecasts of a running job when their actuals are observed."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.components.base import Block
from forecaster.components.scores import Scores, scored_horizons
from forecaster.config import OnlineConfig
from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.shards.score_sums import ScoreSums, add_scores, scores_of, scores_since
from tests.fleets import HOUR, START
from tests.forecaster.components.test_conformance import model_of, step_chain, values_with_gaps


def scored_block(model: Forecaster) -> Block:
    return step_chain(model, "scores", values_with_gaps())[2]


def past_forecasts(block: Block, horizon: int) -> np.ndarray:
    """Return for each window the quantiles ``[Q, T, S]`` that were forecast ``horizon`` windows earlier."""
    issued = block.out.forecast[:, :-horizon, :, horizon - 1]
    return np.concatenate([np.full((len(issued), horizon, issued.shape[2]), np.nan), issued], axis=1)


@pytest.mark.parametrize("place", range(3))
def test_the_component_scores_actuals_against_the_quantiles_issued_earlier(place: int) -> None:
    model = model_of("lstm")
    block, levels = scored_block(model), model.network_config.quantiles
    error, pinball, inside = block.out.scores[..., place]
    quantiles = past_forecasts(block, scored_horizons(model.network_config.horizon)[place])
    known = ~np.isnan(error)
    assert known.sum() > 20
    miss = (block.values - quantiles) / block.unit
    np.testing.assert_allclose(error[known], miss[levels.index(0.5)][known], rtol=1e-4, atol=1e-6)
    losses = [np.maximum(q * m, (q - 1) * m) for q, m in zip(levels, miss, strict=True)]
    np.testing.assert_allclose(pinball[known], np.mean(losses, axis=0)[known], rtol=1e-4, atol=1e-6)
    within = (quantiles[0] <= block.values) & (block.values <= quantiles[-1])
    np.testing.assert_array_equal(inside[known], within[known])
    assert not known[np.isnan(block.values) | np.isnan(quantiles[0])].any()


def test_scored_horizons_are_the_first_a_middle_and_the_last_anchor() -> None:
    assert [scored_horizons(n) for n in (1, 2, 3, 24, 168)] == [
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 8, 24),
        (1, 16, 168),
    ]


def test_without_online_intervals_only_the_median_error_is_scored() -> None:
    model = model_of("lstm")
    without = Forecaster(
        model.network_config,
        model.window_config,
        model.network,
        OnlineConfig(intervals=False),
        model.covariates,
    )
    scores = scored_block(without).out.scores
    assert (~np.isnan(scores[0])).any()
    assert np.isnan(scores[1:]).all()


def test_scores_clip_errors_at_a_million_units() -> None:
    block = scored_block(model_of("lstm"))
    vast = Block(block.start, block.values, HOUR, unit=np.full_like(block.unit, 1e-300), out=block.out)
    vast = Block(**{**vars(vast), "residuals": block.residuals, "bands": block.bands})
    Scores(model_of("lstm").network_config.quantiles, 3).step({}, vast)
    assert np.nanmax(np.abs(vast.out.scores)) == 1e6


def forecasts_with(scores: np.ndarray, version: str = "v1") -> Forecasts:
    shape = scores.shape[1:3]
    return Forecasts(
        version, HOUR, (0.1, 0.5, 0.9), ("a", "b"), START, np.zeros((3, *shape, 1)), np.ones(shape, bool),
        scored_horizons=(1, 4), scores=scores,
    )  # fmt: skip


def test_score_sums_include_only_forecasts_with_an_actual() -> None:
    scores = np.full((3, 2, 2, 2), np.nan)
    scores[:, 0, :, 0] = [[1.0, -3.0], [0.25, 0.75], [1.0, 0.0]]
    found = scores_of(forecasts_with(scores))
    assert found == {"v1": {1: ScoreSums(2, 4_000_000, -2_000_000, 2, 1_000_000, 1)}}
    sums = found["v1"][1]
    assert (sums.mase, sums.bias, sums.pinball_loss, sums.coverage) == (2.0, -1.0, 0.5, 0.5)
    assert scores_of(forecasts_with(np.full((3, 2, 2, 2), np.nan))) == {}
    assert ScoreSums().measures() == {}


def test_score_sums_of_two_model_versions_are_separate() -> None:
    scores = np.ones((3, 1, 2, 2))
    one, two = (scores_of(forecasts_with(scores, version)) for version in ("v1", "v2"))
    both = add_scores(add_scores(one, two), one)
    assert both["v1"][4].scored == 4
    assert both["v2"][4].scored == 2
    assert scores_since(both, one) == {"v1": one["v1"], "v2": two["v2"]}
    assert scores_since(both, both) == {}
