"""The format version of each component's arrays, and the conversion of older formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from forecaster.arrays import Arrays
from forecaster.components import anomaly
from forecaster.components.anomaly import Anomaly
from forecaster.components.drift import Drift
from forecaster.components.experts.base import Expert
from forecaster.components.experts.least_squares import LeastSquares
from forecaster.components.experts.stacking import Stacking
from forecaster.components.intervals import Intervals
from forecaster.components.moments import Moments
from forecaster.components.network.network import Network
from forecaster.components.observed_covariates import ObservedCovariates
from forecaster.components.ring import Ring
from forecaster.components.scores import Scores
from forecaster.components.season import Season
from forecaster.config import EXPERTS

FORMAT_VERSIONS: Mapping[str, int] = {
    part.name: part.format_version
    for part in (
        Moments,
        Ring,
        ObservedCovariates,
        Season,
        Network,
        Stacking,
        Intervals,
        Anomaly,
        Scores,
        Drift,
    )
} | {
    name: LeastSquares.format_version if "least_squares" in name else Expert.format_version
    for name in EXPERTS
}
"""The format version that this release reads and writes, by the name of the component."""


MIGRATIONS: Mapping[tuple[str, int], Callable[[Arrays], Arrays]] = {
    ("anomaly", 2): anomaly.migrated_from_2,
    # The arrays of `Moments` in format 3 need no conversion: format 4 only allows more values of ``run``.
    ("moments", 3): dict,
    ("past", 1): dict,
}
"""Functions that convert the arrays of an older format to this version's, by component and older format."""
