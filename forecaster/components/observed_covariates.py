"""Covariates that are observed beside the values, and known up to now: what the network reads of them.

Letters: T windows, S series, C covariates, R ring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from forecaster.arrays import Arrays, Floats, Floats32
from forecaster.components.base import Block, Field
from forecaster.components.moments import Moments
from forecaster.components.ring import Ring

_CLIP = 6.0  # in spreads
_RING = "ring"

INPUTS_EACH = 3


@dataclass(frozen=True)
class PastCovariates:
    """Per series and covariate the moments that values have, and the last ``R`` observations.

    A covariate is as free of its level as a value is: the network reads how many spreads the last one lies
    from its running mean, by how many it changed, and whether the window has one. The ring is what another
    model is warmed up on. Fields are called after the covariate, such as ``temperature.mean``.

    Attributes:
        covariates: the ``C`` names, in the order of ``Block.past``.
        halflife: see `Moments`.
        ring: R; 0 keeps none.
    """

    covariates: tuple[str, ...]
    halflife: int
    ring: int
    name: str = "past"
    format_version: int = 2

    def spec(self) -> Mapping[str, Field]:
        """Fourteen numbers of each covariate, and its ring."""
        fields = {**self._moments.spec(), **({_RING: Field("float64", (self.ring,))} if self.ring else {})}
        return {f"{name}.{f}": field for name in self.covariates for f, field in fields.items()}

    def init(self, series: int) -> Arrays:
        """Nothing was observed."""
        own: Arrays = {}
        for name in self.covariates:
            own |= {f"{name}.{f}": array for f, array in self._moments.init(series).items()}
            own |= {ring_of(name): array for array in self._ring.init(series).values()}
        return own

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Adds ``past_inputs``: three for each covariate."""
        after: Arrays = {}
        parts: list[Floats32] = []
        for place, name in enumerate(self.covariates):
            values = np.full_like(block.values, np.nan) if block.past.ndim < 3 else block.past[:, :, place]
            alone = replace(block, values=np.ascontiguousarray(values))
            if self.ring:
                kept, _ = self._ring.step({"values": own[ring_of(name)]}, alone)
                after[ring_of(name)] = kept["values"]
            moments = {f: own[f"{name}.{f}"] for f in self._moments.spec()}
            moments, alone = self._moments.step(moments, alone)
            after |= {f"{name}.{f}": array for f, array in moments.items()}
            parts.append(_inputs(alone))
        return {f: after[f] for f in own}, replace(block, past_inputs=np.concatenate(parts, axis=2))

    @property
    def _moments(self) -> Moments:
        return Moments(self.halflife, prior=0.0)

    @property
    def _ring(self) -> Ring:
        return Ring(self.ring, 0)


def ring_of(name: str) -> str:
    """The field that holds the last observations of a covariate."""
    return f"{name}.{_RING}"


def _inputs(block: Block) -> Floats32:
    """``[T, S, 3]``: how far the last lies from the mean, by how many it changed, whether it is there."""
    x = np.zeros((*block.values.shape, INPUTS_EACH), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        distance: Floats = (block.last - block.mean) / block.spread
        change: Floats = (block.values - block.before) / block.spread
    for column, off in ((0, distance), (1, change)):
        x[:, :, column] = np.clip(np.where(np.isnan(off), 0.0, off), -_CLIP, _CLIP)
    x[:, :, 2] = ~np.isnan(block.values)
    return x
