"""Which format of each component's arrays this version reads and writes."""

from __future__ import annotations

from collections.abc import Mapping

from forecaster.components.moments import Moments
from forecaster.components.network import Network
from forecaster.components.ring import Ring

FORMAT_VERSIONS: Mapping[str, int] = {part.name: part.format_version for part in (Moments, Ring, Network)}
