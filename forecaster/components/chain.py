"""The chain: the components of a forecaster, in the order in which they step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from forecaster.components.anomaly import Anomaly
from forecaster.components.base import Component
from forecaster.components.drift import Drift
from forecaster.components.experts.base import Expert
from forecaster.components.experts.least_squares import LeastSquares
from forecaster.components.experts.naive import Persistence, SeasonalNaive
from forecaster.components.experts.stacking import Stacking
from forecaster.components.intervals import Intervals
from forecaster.components.network.inputs import input_components
from forecaster.components.network.network import Network
from forecaster.components.observed_covariates import ObservedCovariates
from forecaster.components.profile import VALUE
from forecaster.components.scores import Scores
from forecaster.components.season import Season, ring_season, ring_week
from forecaster.config import NetworkConfig, OnlineConfig
from forecaster.time.window_config import WindowConfig

_WEEK_S = 604_800
# If windows are months, quarters or years, at most this many alarms are wanted per series and window.
# The default of ``alarms_per_week``, 1, would give several alarms in each window of a month or longer.
_LARGEST_CALENDAR_RATE = 0.05


def chain(network: Network, windows: WindowConfig, online: OnlineConfig) -> tuple[Component, ...]:
    """Return the components of a forecaster in the order in which they step.

    The components that summarise the past come first, then the network, then the components that learn while
    the forecaster runs: experts, stacking, intervals, anomaly. The last ones only watch: scores, drift.
    """
    config = network.config
    experts = experts_of(config, windows, online)
    season = ring_season(config.ring, windows.frequency)
    reach = max([*(expert.reach for expert in experts), season if experts else 0], default=0)
    before = input_components(config, windows.frequency, float(network.prior), reach)
    past = (ObservedCovariates(network.past, config.halflife, config.ring),) if network.past else ()
    after = (Season(season), *experts) if experts else ()
    middle = config.quantiles.index(0.5)
    names = tuple(expert.name for expert in experts)
    combined = (Stacking(names, config.horizon, middle),) if experts or online.intervals else ()
    components = (*before, *past, network, *after, *combined)
    components += tuple(_interval_and_anomaly(config, windows, online))
    if combined:
        levels = config.quantiles if any(isinstance(part, Intervals) for part in components) else (0.5,)
        components += (Scores(levels, config.horizon),)
    components += (Drift((VALUE, *network.past)),)
    check_order(components)
    return components


def check_order(components: Sequence[Component]) -> None:
    """Check that the components step in an order in which each field is written before it is read.

    The fields are the fields of the `Block` that the components pass on.

    Raises:
        ValueError: a component reads a field that no earlier component writes. Or a component reads a field
            that it does not write itself, and a later component writes this field.
    """
    written: set[str] = set()
    for place, component in enumerate(components):
        name = component.name
        for field in sorted(component.reads):
            later = next((part.name for part in components[place + 1 :] if field in part.writes), None)
            # A later component may write the field again, but only if an earlier component writes it first
            # and this component rewrites it.
            if later and (field not in written or field not in component.writes):
                raise ValueError(
                    f"{name} reads {field!r} before {later} writes it: put {later} before {name}"
                )
            if field not in written:
                raise ValueError(
                    f"{name} reads {field!r}, which no earlier component writes: add one before {name}"
                )
        written |= component.writes


def experts_of(config: NetworkConfig, windows: WindowConfig, online: OnlineConfig) -> tuple[Expert, ...]:
    """Return the experts that ``online`` names, except experts that need a longer ring or other windows.

    A least-squares expert uses only the lags that fit into the ring, and is left out if no lag fits. The
    weekly expert is left out wherever `ring_week` is None.
    """
    horizon, season = config.horizon, ring_season(config.ring, windows.frequency)
    near = (1, 2, 3, 6, 12)
    # The lags of the seasonal least-squares expert are near these numbers of seasons.
    # The 7 is for seasons of a day: seven of them are a week.
    # If windows are months, quarters or years, lags of 6 and 7 seasons are left out: values that old
    # hardly help.
    seasons_back = (1, 2) if windows.frequency.is_calendar else (1, 2, 6, 7)
    week = ring_week(config.ring, windows.frequency)
    seasonal_lags = [k * season + off for k in seasons_back for off in (-2, -1, 0)] if season > 1 else []
    experts: dict[str, Expert | None] = {
        "persistence": Persistence(horizon),
        "seasonal_naive": SeasonalNaive(horizon, season),
        "weekly_naive": SeasonalNaive(horizon, week, "weekly_naive") if week else None,
        "least_squares": _least_squares("least_squares", config, (*near, season - 1), season=True),
        "seasonal_least_squares": _least_squares(
            "seasonal_least_squares", config, (1, 2, 3, *seasonal_lags), (24, 168)
        ),
    }
    return tuple(expert for name in online.experts if (expert := experts[name]) is not None)


def _least_squares(
    label: str,
    config: NetworkConfig,
    lags: tuple[int, ...],
    halflives: tuple[float, ...] = (),
    season: bool = False,
) -> Expert | None:
    """Return an expert with each of ``lags`` that is from 1 to ``ring - 1``; None if there is no such lag."""
    usable_lags = tuple(sorted({lag for lag in lags if 1 <= lag < config.ring}))
    if not usable_lags:
        return None
    forget = 0.9998 if season else 0.999
    return LeastSquares(label, config.horizon, usable_lags, halflives, season, forget)


def _interval_and_anomaly(
    config: NetworkConfig, windows: WindowConfig, online: OnlineConfig
) -> Iterator[Component]:
    """Yield `Intervals` and `Anomaly`, each if configured; neither if the median is the only quantile.

    `Intervals` calibrates the quantiles, and `Anomaly` raises alarms.
    """
    levels = config.quantiles
    # with the median as the only quantile, there is no interval to calibrate or to compute p-values from
    if len(levels) == 1:
        return
    if online.intervals:
        yield Intervals(levels, config.horizon)
    rate = online.alarms_per_week * windows.frequency.nominal_s / _WEEK_S
    if rate:
        yield Anomaly(
            levels[0],
            levels[-1],
            min(rate, _LARGEST_CALENDAR_RATE if windows.frequency.is_calendar else 0.5),
            levels.index(0.5),
        )
