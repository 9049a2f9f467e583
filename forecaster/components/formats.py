"""Which format of each component's arrays this version reads and writes."""

from __future__ import annotations

from collections.abc import Mapping

from forecaster.components.anomaly import Anomaly
from forecaster.components.expert import Expert
from forecaster.components.intervals import Intervals
from forecaster.components.moments import Moments
from forecaster.components.network import Network
from forecaster.components.past import PastCovariates
from forecaster.components.ring import Ring
from forecaster.components.season import Season
from forecaster.components.stacking import Stacking
from forecaster.config import EXPERTS

FORMAT_VERSIONS: Mapping[str, int] = {
    part.name: part.format_version
    for part in (Moments, Ring, PastCovariates, Season, Network, Stacking, Intervals, Anomaly)
} | dict.fromkeys(EXPERTS, Expert.format_version)
"""By the names of components."""
