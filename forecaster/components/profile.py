"""The profile of the training data: how the values of each input of each series were distributed.

A running job compares its rows with the profile, to measure drift (`forecaster.evaluation.drift`). The inputs
are the values of the series and the observed covariates.

Letters: T windows, S series, I inputs, B buckets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from forecaster.arrays import Floats, Floats32, Ints
from forecaster.time.windows import Windows

VALUE = "value"
"""The name of the input that holds the values of the series."""

BUCKETS = 10
"""B; the edges of the buckets are the deciles of the training values."""

# with fewer values than this, a series has no deciles of an input: they would be inexact
_FEWEST = 50
# a profile has at most this many series: with more series, the profile would be larger than most networks
_MOST_SERIES = 20_000
# deciles are computed from at most this many windows: more would hardly make them more exact
_MOST_WINDOWS = 8_192
_SERIES_AT_ONCE = 1_000  # the values of this many series at a time are copied and sorted, to limit memory
_WHOLE = 250  # a share is stored in one byte: as the share times this number, rounded
_IDS, _EDGES, _SHARES = "profile.ids", "profile.edges", "profile.shares"


def bucket_of(values: Floats, edges: Floats32) -> Ints:
    """Return the bucket of each value: the number of edges at or below the value.

    Args:
        values: ``[T, S, I]`` float64; a NaN is in bucket 0.
        edges: ``[S, I, B - 1]`` float32, rising.
    """
    found = np.zeros(values.shape, np.int64)
    for edge in np.moveaxis(edges, 2, 0):
        found += values >= edge
    return found


@dataclass(frozen=True)
class Profile:
    """The deciles of the training values of each series and input, and the share of values in each bucket.

    The deciles are the edges of the buckets, so each share is about a tenth if no value repeats. A series
    with six zeros in ten values has six equal deciles, and six tenths of its values are in one bucket.

    Attributes:
        inputs: I names, `VALUE` first, then the observed covariates.
        series_ids: S ids.
        edges: ``[S, I, B - 1]`` float32, the deciles; NaN for an input with fewer than 50 values.
        shares: ``[S, I, B]`` float32, the share of the training values in each bucket.
    """

    inputs: tuple[str, ...] = ()
    series_ids: tuple[str, ...] = ()
    edges: Floats32 = field(default_factory=lambda: np.empty((0, 0, BUCKETS - 1), np.float32))
    shares: Floats32 = field(default_factory=lambda: np.empty((0, 0, BUCKETS), np.float32))

    def __post_init__(self) -> None:
        object.__setattr__(self, "_row_of_id", {name: row for row, name in enumerate(self.series_ids)})

    def __bool__(self) -> bool:
        return bool(self.series_ids)

    @staticmethod
    def of(windows: Windows, covariates: Sequence[str] = ()) -> Profile:
        """Return the profile of training windows.

        Of more than 8,192 windows, 8,192 random ones are used, the same in every call. Of more than 20,000
        series, 20,000 are, evenly chosen. Without windows the profile is empty.

        Args:
            windows: the values and the observed covariates.
            covariates: names of the observed covariates to include.
        """
        count, series = windows.values.shape
        if not count:
            return Profile()
        rows = np.arange(count)
        # Draw the windows at random: windows at even steps could all fall on the same hours of the day.
        if count > _MOST_WINDOWS:
            rows = np.sort(np.random.default_rng(0).choice(count, _MOST_WINDOWS, replace=False))
        chosen = np.unique(np.linspace(0, series - 1, min(series, _MOST_SERIES), dtype=np.int64))
        sources = [windows.values, *(windows.past[name] for name in covariates)]
        edges = np.full((len(chosen), len(sources), BUCKETS - 1), np.nan, np.float32)
        shares = np.zeros((len(chosen), len(sources), BUCKETS), np.float32)
        for first in range(0, len(chosen), _SERIES_AT_ONCE):
            part = slice(first, first + _SERIES_AT_ONCE)
            for place, source in enumerate(sources):
                values = source[np.ix_(rows, chosen[part])]
                edges[part, place] = _deciles(values)
                shares[part, place] = _shares(values, edges[part, place])
        ids = tuple(windows.series_ids[i] for i in chosen)
        return Profile((VALUE, *covariates), ids, edges, shares)

    def rows_of(self, series_ids: Sequence[str]) -> Ints:
        """Return each series' row number in the profile; -1 for a series that it does not contain."""
        rows: Mapping[str, int] = vars(self)["_row_of_id"]
        return np.fromiter((rows.get(name, -1) for name in series_ids), np.int64, len(series_ids))

    def edges_of(self, series_ids: Sequence[str]) -> Floats32:
        """Return the edges of the buckets of each series and input; NaN for a series without a profile.

        They are ``[n, I, B - 1]`` float32 for n series. An empty profile gives an empty array.
        """
        if not self:
            return np.empty(0, np.float32)
        rows = self.rows_of(series_ids)
        found = self.edges[rows]
        found[rows < 0] = np.nan
        return found

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the profile as tensors for a safetensors file; an empty profile gives no tensors."""
        if not self:
            return {}
        ids = json.dumps([self.inputs, self.series_ids]).encode()
        return {
            _IDS: torch.frombuffer(bytearray(ids), dtype=torch.uint8),
            _EDGES: torch.from_numpy(self.edges),
            _SHARES: torch.from_numpy(np.rint(self.shares * _WHOLE).astype(np.uint8)),
        }

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> Profile:
        """Remove the profile's tensors from ``tensors``, and return the profile that they hold.

        The profile is empty if there are none, as in the file of a model of an earlier release.

        Raises:
            ValueError: the tensors do not hold a profile.
        """
        found = [tensors.pop(name, None) for name in (_IDS, _EDGES, _SHARES)]
        if any(tensor is None for tensor in found):
            return Profile()
        ids, edges, shares = (tensor.numpy() for tensor in found if tensor is not None)
        inputs, series_ids = json.loads(ids.tobytes())
        return Profile(
            tuple(inputs), tuple(series_ids), edges, shares.astype(np.float32) / np.float32(_WHOLE)
        )


def _deciles(values: Floats) -> Floats32:
    """Return the deciles of each series of ``values``; NaN for a series with fewer than 50 values.

    ``values`` is ``[T, S]``, the result ``[S, B - 1]`` float32.
    """
    ordered = np.sort(values, axis=0)  # sorting puts NaN after the values of a series
    count = (~np.isnan(values)).sum(axis=0)
    places = np.ceil(np.arange(1, BUCKETS)[:, None] * count / BUCKETS).astype(np.int64)
    deciles = np.take_along_axis(ordered, np.minimum(places, np.maximum(count - 1, 0)), axis=0)
    deciles[:, count < _FEWEST] = np.nan
    with np.errstate(over="ignore"):  # a decile too large for float32 becomes infinite, a valid edge
        rounded: Floats32 = deciles.T.astype(np.float32)
    return rounded


def _shares(values: Floats, edges: Floats32) -> Floats32:
    """Return, for each series and bucket, the share of the series' values that are in the bucket.

    ``values`` is ``[T, S]``, ``edges`` is ``[S, B - 1]``, the result ``[S, B]`` float32.
    """
    bucket = bucket_of(values[:, :, None], edges[:, None])[:, :, 0]
    known = ~np.isnan(values)
    counts = np.stack([((bucket == k) & known).sum(axis=0) for k in range(BUCKETS)], axis=1)
    shares: Floats32 = (counts / np.maximum(known.sum(axis=0), 1)[:, None]).astype(np.float32)
    return shares
