"""Forecasts as arrays by window, and as a frame of rows.

Letters: T windows, S series, N horizon, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import polars as pl
import pyarrow as pa

from forecaster.arrays import Bools, Floats, Ints
from forecaster.time.frequency import Frequency
from schemas.forecasts import quantile_column


@dataclass(frozen=True)
class Forecasts:
    """The forecasts of some series that were issued at the ends of some windows.

    Attributes:
        model_version: version of the weights.
        freq: length of a window.
        quantile_levels: ``Q`` levels.
        series_ids: ``S`` ids.
        start: index of the first closed window.
        values: ``[Q, T, S, N]`` float64, in the series' own unit of measurement; NaN if not issued.
        issued: ``[T, S]`` bool, False if a series had not begun or had retired.
        cold_starts: number of series that returned after more than ``windows.max_gap`` windows and began
            again.
        anomaly: ``[2, T, S]`` float64: the p-value of each window's value under the forecast of the window
            before, then 1 for an alarm and 0 for none. NaN without a value or a forecast; None if the
            forecaster raises no alarms.
        network: ``[Q, T, S, N]`` float64, the forecasts of the network alone; None if not requested.
        members: ``[T, S, N]`` float64 by name, the forecasts of each member of the combination; empty if
            not requested.
        index: ``[T]`` int64, the closed windows; by default consecutive windows from ``start``.
        scored_horizons: K horizons at which earlier forecasts are scored.
        scores: ``[3, T, S, K]`` float64, the scores of the earlier forecasts whose actuals are in these
            windows (see `forecaster.components.base.Outputs`); None if they are not known.
        revision: ``[T, S]`` int64, the number of late rows that changed each forecast after its window was
            due to close; None if it is 0 everywhere.
    """

    model_version: str
    freq: Frequency
    quantile_levels: tuple[float, ...]
    series_ids: tuple[str, ...]
    start: int
    values: Floats
    issued: Bools
    cold_starts: int = 0
    anomaly: Floats | None = None
    network: Floats | None = None
    members: Mapping[str, Floats] = field(default_factory=dict)
    index: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    scored_horizons: tuple[int, ...] = ()
    scores: Floats | None = None
    revision: Ints | None = None

    def __post_init__(self) -> None:
        if not len(self.index):
            object.__setattr__(self, "index", self.start + np.arange(len(self.issued)))

    def __len__(self) -> int:
        return int(self.issued.sum())

    def frame(self) -> pl.DataFrame:
        """Return one row for each issued forecast, with a list of its horizons and quantiles.

        The frame has the columns of ``schemas.forecasts``.
        """
        horizon = self.values.shape[-1]
        at, which = np.nonzero(self.issued)
        rows = len(at)
        # Select the issued forecasts before nesting: filtering a nested frame costs as much as building it.
        kept = self.values.reshape(len(self.values), -1, horizon)
        if rows < self.issued.size:
            kept = kept.take(np.flatnonzero(self.issued), axis=1)
        steps = pa.array(np.tile(np.arange(1, horizon + 1, dtype=np.int16), rows))
        names = ["horizon", *(quantile_column(level) for level in self.quantile_levels)]
        nested = pa.StructArray.from_arrays([steps, *(pa.array(q.reshape(-1)) for q in kept)], names)
        offsets = pa.array(np.arange(0, (rows + 1) * horizon, horizon, dtype=np.int64))
        end_us = self.freq.end_us(self.index[at])
        revision = np.zeros(rows) if self.revision is None else self.revision[at, which]
        return pl.DataFrame(
            [
                _ids(self.series_ids)[which],
                pl.Series("issued_at", end_us).cast(pl.Datetime("us", "UTC")),
                pl.Series("model_version", [self.model_version]).new_from_index(0, rows),
                pl.Series("revision", revision.astype(np.int32)),
                *self._anomalies(at, which),
                pl.Series("forecast", pa.LargeListArray.from_arrays(offsets, nested)),
            ]
        )

    @staticmethod
    def join(parts: Sequence[Forecasts]) -> Forecasts:
        """Join the forecasts of successive blocks of windows, for the same series.

        The result has no ``network``, ``members`` or ``scores``, which are optional.

        Raises:
            ValueError: ``parts`` is empty.
        """
        first = parts[0]
        anomalies = [part.anomaly for part in parts if part.anomaly is not None]
        has_revision = any(part.revision is not None for part in parts)
        return replace(
            first,
            values=np.concatenate([part.values for part in parts], axis=1),
            issued=np.concatenate([part.issued for part in parts]),
            cold_starts=sum(part.cold_starts for part in parts),
            anomaly=np.concatenate(anomalies, axis=1) if anomalies else None,
            network=None,
            members={},
            index=np.concatenate([part.index for part in parts]),
            scores=None,
            revision=np.concatenate([part._revisions() for part in parts]) if has_revision else None,
        )

    def latest(self) -> Forecasts:
        """Return these forecasts, with ``issued`` True only for the last issued forecast of each series."""
        issued_from_here = np.cumsum(self.issued[::-1], axis=0)[::-1]
        return replace(self, issued=self.issued & (issued_from_here == 1))

    def _revisions(self) -> Ints:
        return np.zeros(self.issued.shape, np.int64) if self.revision is None else self.revision

    def _anomalies(self, at: Ints, which: Ints) -> tuple[pl.Series, pl.Series]:
        """Return ``p_value`` and ``alarm`` for each pair of a window (``at``) and a series (``which``)."""
        if self.anomaly is None:
            return (
                pl.Series("p_value", [None], pl.Float64).new_from_index(0, len(at)),
                pl.Series("alarm", [None], pl.Boolean).new_from_index(0, len(at)),
            )
        p_value, alarm = (pl.Series(values[at, which], nan_to_null=True) for values in self.anomaly)
        return p_value.alias("p_value"), (alarm > 0).alias("alarm")


def flat(frame: pl.DataFrame, freq: Frequency) -> pl.DataFrame:
    """Unnest a forecast frame: return one row for each series, issue time and horizon.

    Args:
        frame: forecast frame, nested by horizon (``schemas.forecasts``).
        freq: length of the windows of the forecasts.

    Returns:
        ``series_id``; ``timestamp``, the start of the target window (UTC); ``horizon`` (windows ahead, from
        1); ``forecast``, the median; and one column per other quantile, such as ``q05`` and ``q95``.
        Rows are sorted by series, issue time and horizon.
    """
    rows = frame.select("series_id", "issued_at", "forecast").explode("forecast").unnest("forecast")
    rows = rows.sort("series_id", "issued_at", "horizon", maintain_order=True)
    issued = freq.window_of(rows["issued_at"].to_physical().to_numpy())
    start_us = freq.start_us(issued + rows["horizon"].cast(pl.Int64).to_numpy() - 1)
    quantiles = [name for name in rows.columns if name not in ("series_id", "issued_at", "horizon", "q50")]
    return rows.select(
        "series_id",
        pl.Series("timestamp", start_us).cast(pl.Datetime("us", "UTC")),
        "horizon",
        pl.col("q50").alias("forecast"),
        *(pl.col(name).alias(flat_column(float(name[1:]) / 100)) for name in quantiles),
    )


def flat_column(level: float) -> str:
    """Return the name of a quantile's column in flat forecasts: ``q05`` for 0.05, ``q97.5`` for 0.975."""
    return f"q{round(level * 100, 6):0>2g}"


@lru_cache(maxsize=16)
def _ids(series_ids: tuple[str, ...]) -> pl.Series:
    """Return series ids as a Polars column, which is cached, because the ids rarely change."""
    return pl.Series("series_id", series_ids, pl.String)
