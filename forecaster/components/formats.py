"""Which format of each component's arrays this version reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from forecaster.arrays import Arrays
from forecaster.components import anomaly
from forecaster.components.anomaly import Anomaly
from forecaster.components.experts.base import Expert
from forecaster.components.experts.least_squares import LeastSquares
from forecaster.components.experts.stacking import Stacking
from forecaster.components.intervals import Intervals
from forecaster.components.moments import Moments
from forecaster.components.network.network import Network
from forecaster.components.observed_covariates import PastCovariates
from forecaster.components.ring import Ring
from forecaster.components.season import Season
from forecaster.config import EXPERTS

FORMAT_VERSIONS: Mapping[str, int] = {
    part.name: part.format_version
    for part in (Moments, Ring, PastCovariates, Season, Network, Stacking, Intervals, Anomaly)
} | {
    name: LeastSquares.format_version if "least_squares" in name else Expert.format_version
    for name in EXPERTS
}
"""By the names of components."""


def _symmetric(own: Arrays) -> Arrays:
    """The arrays of `LeastSquares` with a symmetric inverse; in format 1 rounding made it asymmetric."""
    inverse = own["inverse"]
    return {**own, "inverse": (inverse + inverse.swapaxes(1, 2)) / inverse.dtype.type(2)}


MIGRATIONS: Mapping[tuple[str, int], Callable[[Arrays], Arrays]] = {
    (name, 1): _symmetric for name in EXPERTS if "least_squares" in name
} | {
    ("anomaly", 1): anomaly.migrated,
    ("anomaly", 2): anomaly.migrated_from_2,
    # ``run`` may be above `_RETURNED` since: arrays of the older formats mean the same as they did.
    ("moments", 3): dict,
    ("past", 1): dict,
}
"""How arrays of an older format become those of this version, by component and older format."""
