"""Read the last values and the newest forecasts of some series from an output folder, for plots."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, Final

import polars as pl

from forecaster.time.frequency import Frequency
from pipelines.dashboard.forecast_files import ForecastFiles
from pipelines.dashboard.snapshots import ShardSeries, Snapshots
from pipelines.sinks.files import FORECASTS
from pipelines.storage import Location
from schemas.errors import DataError

_TIMES: Final = {"target_at": pl.Datetime("us", "UTC"), "issued_at": pl.Datetime("us", "UTC")}
_MATCHES, _SIMILARITY = 3, 0.6


class SeriesFans:
    """The values and forecasts of single series in an output folder.

    Args:
        output: output folder.

    Raises:
        DataError: a snapshot is unreadable, or there is none yet.
    """

    def __init__(self, output: Location) -> None:
        self._output = output
        self._snapshots, self._files = Snapshots(output), ForecastFiles(output)
        self._shards = self._snapshots.read()
        if self._snapshots.errors:
            raise DataError(self._snapshots.errors[0])
        if not self.ids:
            raise DataError(
                f"{output}: no snapshot has a series yet: wait until the job has ended, or for "
                "stream.snapshot_every_s seconds"
            )

    @property
    def ids(self) -> list[str]:
        """The ids of all series, sorted."""
        return sorted(name for shard in self._shards for name in shard.ids.to_list())

    def parse(self, text: str) -> list[str]:
        """Split a text at commas into series ids; a text that is an id itself is not split.

        Raises:
            DataError: no series has an id; the message lists similar ids.
        """
        names = [text] if self._shard_of(text) is not None else [*dict.fromkeys(text.split(","))]
        for name in names:
            if self._shard_of(name) is None:
                raise DataError(f"{self._output}: no series has the id {name!r}{self._similar(name)}")
        return names

    def read(self, name: str, count: int) -> pl.DataFrame:
        """Return a series' newest forecasts, and its values from one horizon before the oldest forecast on.

        Args:
            name: id of the series.
            count: largest number of forecasts; they are a horizon apart.

        Returns:
            A frame for `forecaster.reports.fan_plot.fan_figure`: ``target_at``, ``issued_at`` (null
            for an observed value), ``observed``, and one column per quantile.

        Raises:
            DataError: the series has no forecast, or a file is unreadable.
        """
        own = self._shard_of(name)
        fans = self._files.fans(name, (own.shard.number, own.shard.of), own.freq, count) if own else []
        if own is None or not fans:
            raise DataError(
                f"{self._output / FORECASTS}: no forecast of {name}: a job writes its forecasts there as "
                "windows close, unless it sends them to a topic"
            )
        rows = pl.concat([_rows_of(fan, own.freq) for fan in fans])
        horizon = len(fans[0]["forecast"])
        first_us = own.freq.start_us(own.freq.window_of(fans[-1]["issued_us"]) - horizon)
        start_us, values = self._snapshots.values(name) or ((), ())
        observed = pl.DataFrame(
            {"target_at": start_us, "observed": values},
            schema={"target_at": _TIMES["target_at"], "observed": pl.Float64},
        ).filter(pl.col("target_at").to_physical() >= first_us)
        return pl.concat([observed, rows], how="diagonal")

    def _shard_of(self, name: str) -> ShardSeries | None:
        return next((shard for shard in self._shards if shard.row_of(name) is not None), None)

    def _similar(self, name: str) -> str:
        """Return the end of an error message, which lists a few series ids.

        These ids contain ``name``. If no id does, they are similar to it; if none is, they are the first ids.
        """
        ids = self.ids
        found = [one for one in ids if name.lower() in one.lower()][:_MATCHES]
        found = found or get_close_matches(name, ids, _MATCHES, _SIMILARITY) or ids[:_MATCHES]
        return f"; similar ids: {', '.join(found)} (of {len(ids):,} series)"


def _rows_of(fan: dict[str, Any], freq: Frequency) -> pl.DataFrame:
    """Return one row for each horizon of a forecast (see `pipelines.dashboard.forecast_files`)."""
    steps = pl.DataFrame(fan["forecast"])
    first = freq.window_of(fan["issued_us"]) - 1
    return steps.select(
        pl.Series("target_at", freq.start_us(first + steps["horizon"].to_numpy())).cast(_TIMES["target_at"]),
        pl.lit(fan["issued_us"]).cast(_TIMES["issued_at"]).alias("issued_at"),
        pl.exclude("horizon"),
    )
