"""Compare two models: step both through the same rows, and score their forecasts of the same windows.

The forecasts are compared at the horizons and quantiles that both models have. The loss is the mean pinball
loss of these quantiles, a proper score (Gneiting & Raftery 2007, "Strictly proper scoring rules, prediction,
and estimation", section 6.1), divided by the error of seasonal naive on the rows before the first scored
forecast.

Letters: T issue rows, S series, N horizon, Q quantiles, C classes of series.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from forecaster.arrays import Floats
from forecaster.evaluation.baselines import baseline_points, last_values
from forecaster.evaluation.bootstrap import Improvement
from forecaster.evaluation.demand_classes import demand_classes
from forecaster.evaluation.paired_losses import BASELINES, PairedLosses
from forecaster.evaluation.rolling import Split, blocks, training_scale, values_ahead
from forecaster.model import Forecaster
from forecaster.state import State
from forecaster.stepping.advance import advance_in_place
from forecaster.threads import compute_threads
from forecaster.time.windows import Windows, observed
from schemas.errors import ConfigError, DataError

# A block of several windows has at most this many cells: windows times series times horizons.
_BLOCK_CELLS = 300_000


@dataclass(frozen=True)
class Cost:
    """The memory of one model's state and weights, and the duration of its steps in the comparison.

    Attributes:
        state_bytes: bytes of the state for each series.
        weights_bytes: bytes of the saved weights.
        seconds: time that `advance_in_place` took for all windows.
    """

    state_bytes: float
    weights_bytes: int
    seconds: float


@dataclass(frozen=True)
class PairedComparison:
    """The result of a comparison of two models.

    Attributes:
        champion, challenger: versions of the two models.
        scores: ``model, horizon, count, skill, mase, wql, coverage, width`` at each horizon alone, for the
            champion, the challenger and the baselines, as means over the same pairs of forecast and actual.
            ``skill`` is 1 minus the ratio of the MASE to that of persistence. ``coverage`` and ``width``
            belong to ``interval``; the width is in the unit of ``mase``. A measure that does not apply is
            null.
        overall: improvement of the mean loss over all horizons and series.
        by_horizon: improvement at each horizon.
        by_class: improvement for each class of series.
        series_by_class: number of scored series of each class.
        interval: the widest interval that both models forecast, as two levels; None without one.
        coverage: coverage of that interval by the champion and by the challenger, over all horizons; None
            without an interval.
        issues: number of issue times.
        block: number of successive issue times that the bootstrap draws together.
        confidence: confidence of the intervals of the improvements.
        costs: what the champion and the challenger cost.
        notices: lines about differences between the models that limit the comparison.
    """

    champion: str
    challenger: str
    scores: pl.DataFrame = field(repr=False)
    overall: Improvement
    by_horizon: Mapping[int, Improvement]
    by_class: Mapping[str, Improvement]
    series_by_class: Mapping[str, int]
    interval: tuple[float, float] | None
    coverage: tuple[float, float] | None
    issues: int
    block: int
    confidence: float
    costs: tuple[Cost, Cost]
    notices: tuple[str, ...] = ()

    @property
    def blocks(self) -> int:
        """The number of issue times divided by the length of a block of the bootstrap, rounded down."""
        return self.issues // self.block

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as a dictionary, which is part of the output of ``--json``."""
        plain = {k: v for k, v in vars(self).items() if k not in ("scores", "costs", "notices")}
        improved = {name: plain.pop(name) for name in ("by_horizon", "by_class")}
        champion, challenger = self.costs
        return {
            **plain,
            "overall": self.overall._asdict(),
            **{name: {k: v._asdict() for k, v in found.items()} for name, found in improved.items()},
            "costs": {"champion": vars(champion), "challenger": vars(challenger)},
            "scores": self.scores.to_dicts(),
        }


def check_comparable(champion: Forecaster, challenger: Forecaster) -> None:
    """Check that two models forecast the same windows.

    Raises:
        ConfigError: their windows differ in length, aggregate or the meaning of an empty window.
    """
    for name in ("freq", "aggregate", "empty"):
        one, other = (getattr(model.window_config, name) for model in (champion, challenger))
        if one != other:
            raise ConfigError(
                f"{champion.version} has windows.{name} = {one}, and {challenger.version} has {other}: "
                "only models of the same windows can be compared"
            )


def limits_of(champion: Forecaster, challenger: Forecaster) -> tuple[int, tuple[float, ...], list[str]]:
    """Return the largest horizon and the quantiles that both models have, and notices of differences."""
    notices = []
    horizons = [model.network_config.horizon for model in (champion, challenger)]
    if horizons[0] != horizons[1]:
        notices.append(
            f"horizons differ ({horizons[0]} and {horizons[1]}): compared on horizons 1 to {min(horizons)}"
        )
    first, second = (model.network_config.quantiles for model in (champion, challenger))
    levels = tuple(level for level in first if any(np.isclose(level, second)))
    if len(levels) < max(len(first), len(second)):
        shown = ", ".join(f"{level:g}" for level in levels)
        notices.append(f"quantiles differ: compared on the quantiles that both forecast, {shown}")
    return min(horizons), levels, notices


@compute_threads(1)
def compare(
    champion: Forecaster,
    challenger: Forecaster,
    windows: Windows,
    first: int,
    classes: Sequence[str] | None = None,
    confidence: float = 0.9,
    on_windows: Callable[[int], None] = lambda windows: None,
) -> PairedComparison:
    """Step both models through ``windows``; score forecasts issued from row ``first - 1`` on.

    A row is the position of a window in ``windows``; a forecast is issued at the end of its row. Forecasts
    issued at the last N rows are not scored, because they can reach beyond the last row; N is the shorter
    horizon of the two models.

    Args:
        champion: the model in use, with its tables of covariates.
        challenger: the model that may replace it, with its tables of covariates.
        windows: the recent history; the rows before ``first`` warm both models up and give the scales.
        first: the first row whose value is an actual of the scored forecasts.
        classes: class of each series; by default its demand class in the rows before ``first``.
        confidence: confidence of the intervals.
        on_windows: called with the number of windows that both models have been stepped through.

    Raises:
        ConfigError: the models do not forecast the same windows.
        DataError: no forecast from row ``first`` on has an actual.
    """
    check_comparable(champion, challenger)
    horizon, levels, notices = limits_of(champion, challenger)
    config = champion.window_config
    split = Split(first, first, len(windows.values), horizon)
    actuals = observed(windows, config).values
    filled = last_values(actuals)
    is_scored = np.asarray((~np.isnan(actuals[:first])).any(axis=0))
    classes = demand_classes(actuals[:first]) if classes is None else classes
    scale, issues = training_scale(windows, first, config), len(split.issue_rows)
    losses = PairedLosses(scale, is_scored, classes, levels, horizon, issues)
    replays = [_Replay.begin(model, windows, levels, horizon) for model in (champion, challenger)]
    size = max(1, _BLOCK_CELLS // max(len(windows.series_ids) * horizon, 1))
    breaks = np.flatnonzero(np.diff(windows.index) > 1) + 1
    for number, rows in enumerate(blocks(split, size, breaks)):
        block, at = windows.rows(rows.start, rows.stop), np.arange(rows.start, rows.stop)
        # The models alternate: the champion is stepped first in one block, the challenger in the next.
        # The model that steps second is faster, because the values of the block are in the CPU's caches.
        first_is_champion = number % 2 == 0
        stepped = [replay.step(block) for replay in (replays if first_is_champion else replays[::-1])]
        if rows.start >= split.issue_rows.start:
            points = baseline_points(windows, filled, at, config, horizon)
            block_actuals = values_ahead(actuals, windows.index, at, horizon)
            forecasts = stepped if first_is_champion else stepped[::-1]
            baselines = [points[name] for name in BASELINES]
            losses.add(rows.start - split.issue_rows.start, block_actuals, forecasts, baselines)
        on_windows(len(rows))
    if not losses.count.sum():
        raise DataError(
            "no forecast of the windows to compare has an actual, so there is nothing to compare: give more "
            "or newer rows"
        )
    length = losses.block_length()
    overall, by_horizon, by_class = losses.improvements(length, confidence)
    return PairedComparison(
        champion=champion.version,
        challenger=challenger.version,
        scores=losses.scores(),
        overall=overall,
        by_horizon=by_horizon,
        by_class=by_class,
        series_by_class=losses.series_by_class,
        interval=losses.interval,
        coverage=losses.coverage(),
        issues=len(split.issue_rows),
        block=length,
        confidence=confidence,
        costs=(replays[0].cost, replays[1].cost),
        notices=tuple(notices),
    )


@dataclass
class _Replay:
    """A model that is stepped through the windows, its state, and the seconds that its steps took."""

    forecaster: Forecaster
    state: State
    levels: list[int]
    horizon: int
    seconds: float = 0.0

    @staticmethod
    def begin(forecaster: Forecaster, windows: Windows, levels: Sequence[float], horizon: int) -> _Replay:
        own = forecaster.network_config.quantiles
        at = [int(np.argmin([abs(level - other) for other in own])) for level in levels]
        return _Replay(
            forecaster, forecaster.new_series_state(windows.series_ids, windows.start), at, horizon
        )

    def step(self, block: Windows) -> Floats:
        """Step the model through consecutive windows; return the forecasts to compare.

        The forecasts are ``[Q, T, S, N]``: by quantile level, window, series and horizon.
        """
        past = block.stacked_covariates(self.forecaster.covariates.features.observed)
        began_s = time.perf_counter()
        found = advance_in_place(self.forecaster, self.state, block.values, block.start, past=past)
        self.seconds += time.perf_counter() - began_s
        return found.values[self.levels, ..., : self.horizon]

    @property
    def cost(self) -> Cost:
        return Cost(self.state.bytes_per_series, len(self.forecaster.to_bytes()), self.seconds)
