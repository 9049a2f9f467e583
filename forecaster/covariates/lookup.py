"""Lookup of covariate features by series and window, future windows included.

Letters: n windows, S series, K known features, k of them from the known table, D static features.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import polars as pl
from safetensors.numpy import load, save

from forecaster.arrays import Floats32, Ints
from forecaster.covariates.encoding import SERIES, Column, Features, Table, Tables, column_of, row_windows
from forecaster.time.calendar import calendar
from forecaster.time.frequency import Frequency
from forecaster.time.windows import Windows
from schemas import cells
from schemas.errors import ConfigError, DataError, ModelError

_MOST_BYTES = 1 << 31


@dataclass(frozen=True)
class Covariates:
    """The encoded covariates of a job, to look up by series and window.

    Attributes:
        features: the encoding.
        freq: length of a window.
        windows: ``[n]`` int64, rising, the windows for which the known table has rows.
        by_window: ``[n, P + 1, k]`` float32, the features of the ``P`` series of the known table, then the
            features of all other series; ``[n, 1, k]`` if the table has no series, so that all have the same.
        places: index of each of the ``P`` series.
        by_series: ``[R + 1, D]`` float32, the features of the ``R`` series of the static table, then the
            features of all other series.
        rows: index of each of the ``R`` series.
    """

    features: Features = field(default_factory=Features)
    freq: Frequency = Frequency(3600)  # noqa: RUF009
    windows: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    by_window: Floats32 = field(default_factory=lambda: np.zeros((0, 1, 0), np.float32))
    places: Mapping[str, int] = field(default_factory=dict)
    by_series: Floats32 = field(default_factory=lambda: np.zeros((1, 0), np.float32))
    rows: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def of(features: Features, freq: Frequency, tables: Tables | None = None) -> Covariates:
        """Encode covariate tables with fitted ``features``; all cells of an absent table count as missing.

        The features of several rows of one window are averaged. A row has no effect on other windows.

        Raises:
            DataError: a table lacks a column of the features, a cell cannot be read, or a series occurs twice
                in the static table.
        """
        known, static = tables or Tables()
        windows, by_window = np.empty(0, np.int64), np.zeros((0, 1, _width(features.known)), np.float32)
        places: Mapping[str, int] = {}
        if known is not None and features.known:
            windows, by_window, places = _by_window(features.known, known, freq)
        by_series = np.zeros((1, features.static_count), np.float32)
        rows: Mapping[str, int] = {}
        if static is not None and features.static:
            by_series, rows = _by_series(features.static, static)
        return Covariates(features, freq, windows, by_window, places, by_series, rows)

    @staticmethod
    def fitted(
        tables: Tables, windows: Windows, freq: Frequency, decoder: bool, held_from: int | None = None
    ) -> Covariates:
        """Fit the covariate features of a network to ``windows``; return the tables encoded as features.

        Args:
            tables: the covariates of the job.
            windows: the whole history.
            freq: length of a window.
            decoder: whether the network has a decoder.
            held_from: row of the first window that is held out from training; none is by default.

        Raises:
            ConfigError: there are known covariates, and the network has no decoder to read them.
            DataError: a table cannot be read.
        """
        if tables.known is not None and not decoder:
            raise ConfigError(
                "covariates.known needs network.decoder = true: only the decoder reads known covariates"
            )
        if tables.static is None and not decoder and not windows.past:
            return Covariates()
        features = Features.fit(tables, windows, freq, held_from)
        if not decoder:
            # Only a decoder needs calendar features: `block_inputs` already gives the recurrent cells the
            # calendar of the next window.
            features = features.model_copy(update={"calendar": ()})
        return Covariates.of(features, freq, tables)

    def known(self, series_ids: Sequence[str], start: Ints, windows: int) -> Floats32:
        """Return the known features of the given number of windows from ``start`` on.

        Args:
            series_ids: ``S`` ids; the features of an id that the table lacks are missing.
            start: ``[S]`` or ``[1]`` int64, first window of each series.
            windows: number of windows.

        Returns:
            ``[windows, S or 1, K]`` float32. The series axis is 1 if no feature depends on the series and
            ``start`` is the same for all.
        """
        at = start[None, :] + np.arange(windows)[:, None]
        parts = [calendar(at, self.freq, self.features.calendar), self._known_from_table(series_ids, at)]
        series = max(part.shape[1] for part in parts)
        aligned = [np.broadcast_to(part, (windows, series, part.shape[2])) for part in parts]
        return np.concatenate(aligned, axis=2, dtype=np.float32)

    def _known_from_table(self, series_ids: Sequence[str], at: Ints) -> Floats32:
        """Look up the features of the windows ``at`` in the table of known covariates.

        ``at`` holds n windows of each series, or n windows for all series: ``[n, S or 1]``. The k features
        are ``[n, S or 1, k]`` float32. They are 0 in a window for which the table has no row.
        """
        if not len(self.windows):
            return np.zeros((*at.shape, _width(self.features.known)), np.float32)
        others = self.by_window.shape[1] - 1
        place = np.array([self.places.get(name, others) for name in series_ids]) if self.places else 0
        row = np.minimum(np.searchsorted(self.windows, at), len(self.windows) - 1)
        has_row = self.windows[row] == at
        return np.where(has_row[..., None], self.by_window[row, place], np.float32(0.0))

    def static(self, series_ids: Sequence[str]) -> Floats32:
        """Return one row of static features for each series; zeros for a series that the table lacks."""
        others = len(self.by_series) - 1
        return self.by_series[[self.rows.get(name, others) for name in series_ids]]

    def to_bytes(self) -> bytes:
        """Serialise features and tables, to send them to workers."""
        metadata = {
            "features": self.features.model_dump_json(),
            "freq": str(self.freq),
            "places": json.dumps(self.places),
            "rows": json.dumps(self.rows),
        }
        arrays: dict[str, np.ndarray] = {
            "windows": self.windows,
            "by_window": self.by_window,
            "by_series": self.by_series,
        }
        return zlib.compress(save(arrays, metadata), level=1)

    @staticmethod
    def from_bytes(data: bytes) -> Covariates:
        """Return the encoded covariates that `to_bytes` wrote into ``data``.

        Raises:
            ModelError: ``data`` is damaged; the compression has a checksum.
        """
        try:
            plain = zlib.decompress(data)
        except zlib.error as error:
            raise ModelError(f"the covariates are damaged ({error}): restore the file") from error
        metadata = json.loads(plain[8 : 8 + int.from_bytes(plain[:8], "little")])["__metadata__"]
        arrays = load(plain)
        return Covariates(
            Features.model_validate_json(metadata["features"]),
            Frequency.parse(metadata["freq"]),
            cast("Ints", arrays["windows"]),
            cast("Floats32", arrays["by_window"]),
            json.loads(metadata["places"]),
            cast("Floats32", arrays["by_series"]),
            json.loads(metadata["rows"]),
        )


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns)


def _by_window(
    columns: Sequence[Column], table: Table, freq: Frequency
) -> tuple[Ints, Floats32, dict[str, int]]:
    """Encode the known table; return the fields ``windows``, ``by_window``, ``places`` of `Covariates`."""
    windows, row = np.unique(row_windows(table, freq), return_inverse=True)
    names: list[str] = []
    series = np.zeros(len(row), np.int64)
    if SERIES in table.frame.columns:
        ids = cells.names(column_of(table, SERIES))
        names = ids.unique().sort().to_list()
        series = ids.cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64)
    encoded = np.concatenate([column.features(table) for column in columns], axis=1)
    if not len(row):
        return windows, np.zeros((0, 1, encoded.shape[1]), np.float32), {}
    shape = (len(windows), len(names) + bool(names) or 1, encoded.shape[1])
    if (size := 4 * int(np.prod(shape))) > _MOST_BYTES:
        raise DataError(
            f"{table.name}: {shape[0]:,} windows of {len(names):,} series make {size / 2**30:.1f} GiB of "
            f"features, but at most {_MOST_BYTES / 2**30:.0f} GiB are allowed: leave out old rows"
        )
    total, count = np.zeros(shape, np.float32), np.zeros(shape[:2], np.float32)
    at = (row, series)
    np.add.at(total, at, encoded)
    np.add.at(count, at, 1.0)
    total /= np.maximum(count, 1.0)[..., None]
    return windows, total, {name: place for place, name in enumerate(names)}


def _by_series(columns: Sequence[Column], table: Table) -> tuple[Floats32, dict[str, int]]:
    """Encode static covariates as the fields ``by_series`` and ``rows`` of `Covariates`."""
    ids = cells.names(column_of(table, SERIES))
    if (repeated := ids.is_duplicated()).any():
        row = int(repeated.arg_max() or 0)
        twice = [i + 1 for i in range(len(ids)) if ids[i] == ids[row]]
        raise DataError(
            f"{table.name}: row {twice[1]}: column {SERIES}: {ids[row]!r} is in row {twice[0]}, too: keep one"
        )
    encoded = np.concatenate([column.features(table) for column in columns], axis=1)
    nothing = np.zeros((1, encoded.shape[1]), np.float32)
    return np.concatenate([encoded, nothing]), {name: row for row, name in enumerate(ids)}
