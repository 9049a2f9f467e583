"""The network's inputs from observed covariates, which are known only for past windows.

Letters: T windows, S series, C covariates, R ring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from forecaster.arrays import Arrays, Floats, Floats32
from forecaster.components.base import Block, Field
from forecaster.components.moments import Moments
from forecaster.components.ring import Ring

_CLIP = 6.0  # a distance from the mean, or a change, is clipped to this many spreads
_RING = "ring"

INPUTS_PER_COVARIATE = 3


@dataclass(frozen=True)
class ObservedCovariates:
    """Computes inputs of the network from observed covariates, of which it tracks moments and last values.

    The inputs do not depend on the covariate's level: the distance of the last observation from the running
    mean in spreads, its change in spreads, and whether the window has an observation. A ring holds the values
    of the last ``R`` windows of each series and covariate; it is used to re-warm another model. Fields are
    named after the covariate, such as ``temperature.mean``.

    Attributes:
        covariates: the ``C`` names, in the order of ``Block.past``.
        halflife: see `Moments`.
        ring: R; 0 keeps no values.
    """

    covariates: tuple[str, ...]
    halflife: int
    ring: int
    name: str = "past"
    format_version: int = 2
    reads = frozenset[str]()
    writes = frozenset({"observed_inputs"})

    def spec(self) -> Mapping[str, Field]:
        """Return the fields of each covariate: the fields of `Moments`, and a ring unless ``ring`` is 0."""
        fields = {**self._moments.spec(), **({_RING: Field("float64", (self.ring,))} if self.ring else {})}
        return {f"{name}.{f}": field for name in self.covariates for f, field in fields.items()}

    def init(self, series: int) -> Arrays:
        """Return the initial arrays, for series without any observation yet."""
        own: Arrays = {}
        for name in self.covariates:
            own |= {f"{name}.{f}": array for f, array in self._moments.init(series).items()}
            own |= {ring_field(name): array for array in self._ring.init(series).values()}
        return own

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Update the moments and rings of the covariates, and add ``observed_inputs`` to the block.

        ``observed_inputs`` is ``[T, S, 3 C]``: three inputs for each covariate.
        """
        after: Arrays = {}
        parts: list[Floats32] = []
        for place, name in enumerate(self.covariates):
            values = np.full_like(block.values, np.nan) if block.past.ndim < 3 else block.past[:, :, place]
            covariate_block = block.with_fields(values=np.ascontiguousarray(values))
            if self.ring:
                own_ring, _ = self._ring.step({"values": own[ring_field(name)]}, covariate_block)
                after[ring_field(name)] = own_ring["values"]
            moments = {f: own[f"{name}.{f}"] for f in self._moments.spec()}
            moments, covariate_block = self._moments.step(moments, covariate_block)
            after |= {f"{name}.{f}": array for f, array in moments.items()}
            parts.append(_inputs(covariate_block))
        return {f: after[f] for f in own}, block.with_fields(observed_inputs=np.concatenate(parts, axis=2))

    @property
    def _moments(self) -> Moments:
        return Moments(self.halflife, prior=0.0)

    @property
    def _ring(self) -> Ring:
        return Ring(self.ring, 0)


def ring_field(name: str) -> str:
    """Return the name of the field that holds a covariate's values in the last windows."""
    return f"{name}.{_RING}"


def _inputs(block: Block) -> Floats32:
    """Return a covariate's inputs in each window: last value less mean, change, and whether it has a value.

    The result is ``[T, S, 3]``. The change is the difference from the value of the window before. The first
    two inputs are in spreads, and 0 instead of NaN. The third is 1 or 0.
    """
    x = np.zeros((*block.values.shape, INPUTS_PER_COVARIATE), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        distance: Floats = (block.last - block.mean) / block.spread
        change: Floats = (block.values - block.before) / block.spread
    for column, spreads in ((0, distance), (1, change)):
        x[:, :, column] = np.clip(np.where(np.isnan(spreads), 0.0, spreads), -_CLIP, _CLIP)
    x[:, :, 2] = ~np.isnan(block.values)
    return x
