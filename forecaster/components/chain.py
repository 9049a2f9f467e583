"""Which components a forecaster's state is made of, in the order in which they step."""

from __future__ import annotations

from collections.abc import Iterator

from forecaster.components.anomaly import Anomaly
from forecaster.components.base import Component
from forecaster.components.experts.base import Expert
from forecaster.components.experts.least_squares import LeastSquares
from forecaster.components.experts.naive import Persistence, SeasonalNaive
from forecaster.components.experts.stacking import Stacking
from forecaster.components.intervals import Intervals
from forecaster.components.network.inputs import before_network
from forecaster.components.network.network import Network
from forecaster.components.observed_covariates import PastCovariates
from forecaster.components.season import Season, season_in, week_in
from forecaster.config import NetworkConfig, OnlineConfig
from forecaster.time.window_config import WindowConfig

_WEEK_S = 604_800
_MOST_OFTEN = 0.05  # of the windows of the calendar, where an alarm a week would be several in each


def chain(network: Network, windows: WindowConfig, online: OnlineConfig) -> tuple[Component, ...]:
    """The components of a forecaster: what it keeps of the past, the network, and what learns as it runs."""
    config = network.config
    experts = experts_of(config, windows, online)
    season = season_in(config.ring, windows.frequency)
    reach = max([*(expert.reach for expert in experts), season if experts else 0], default=0)
    before = before_network(config, windows.frequency, float(network.prior), reach)
    past = (PastCovariates(network.past, config.halflife, config.ring),) if network.past else ()
    after = (Season(season), *experts) if experts else ()
    middle = config.quantiles.index(0.5)
    names = tuple(expert.name for expert in experts)
    combined = (Stacking(names, config.horizon, middle),) if experts or online.intervals else ()
    return (*before, *past, network, *after, *combined, *_of_errors(config, windows, online))


def experts_of(config: NetworkConfig, windows: WindowConfig, online: OnlineConfig) -> tuple[Expert, ...]:
    """The experts of a forecaster; those, and lags, that the ring is too short for are left out."""
    horizon, season = config.horizon, season_in(config.ring, windows.frequency)
    near = (1, 2, 3, 6, 12)
    # A week of days is seven of them; a year of months is no part of anything, and few series hold seven.
    rounds = (1, 2) if windows.frequency.is_calendar else (1, 2, 6, 7)
    week = week_in(config.ring, windows.frequency)
    round_ = [k * season + off for k in rounds for off in (-2, -1, 0)] if season > 1 else []
    made: dict[str, Expert | None] = {
        "persistence": Persistence(horizon),
        "seasonal_naive": SeasonalNaive(horizon, season),
        "weekly_naive": SeasonalNaive(horizon, week, "weekly_naive") if week else None,
        "least_squares": _least_squares("least_squares", config, (*near, season - 1), season=True),
        "seasonal_least_squares": _least_squares(
            "seasonal_least_squares", config, (1, 2, 3, *round_), (24, 168)
        ),
    }
    return tuple(expert for name in online.experts if (expert := made[name]) is not None)


def _least_squares(
    label: str,
    config: NetworkConfig,
    lags: tuple[int, ...],
    halflives: tuple[float, ...] = (),
    season: bool = False,
) -> Expert | None:
    kept = tuple(sorted({lag for lag in lags if 1 <= lag < config.ring}))
    if not kept:
        return None
    forget = 0.9998 if season else 0.999
    return LeastSquares(label, config.horizon, kept, halflives, season, forget)


def _of_errors(config: NetworkConfig, windows: WindowConfig, online: OnlineConfig) -> Iterator[Component]:
    levels = config.quantiles
    if len(levels) == 1:  # points have no quantiles to set, and no tails to judge a value by
        return
    if online.intervals:
        yield Intervals(levels, config.horizon)
    rate = online.alarms_per_week * windows.frequency.nominal_s / _WEEK_S
    if rate:
        yield Anomaly(
            levels[0],
            levels[-1],
            min(rate, _MOST_OFTEN if windows.frequency.is_calendar else 0.5),
            levels.index(0.5),
        )
