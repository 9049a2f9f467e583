"""Fit the linear part of a network: ridge regressions in closed form, over the windows of all series.

There is one regression per horizon, all on the same second moments. Each row has a weight, which converts its
errors to the series' average unit. A second fit gives less weight to rows with large errors, so that it
approaches a fit of least absolute errors (iteratively reweighted least squares; Schlossmacher 1973, "An
iterative technique for absolute deviations curve fitting"). Lags that are whole seasons before the last value
or before the forecast value are shrunk less than others.

Letters: T windows, B series of a batch, F regressors, N horizon, m windows of a season, n rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from forecaster.arrays import Floats, Floats32
from forecaster.components.network.log_ridge import log_regressors
from forecaster.components.network.ridge import RIDGE_COUNT, columns, pieces, regressor_count
from forecaster.components.season import ring_season
from forecaster.training.batches import Fleet
from forecaster.training.segments import TrainingBatch

# Ridge penalties of the first two of the three ridge regressions; both forecast changes from the last value.
# Each penalty is a share of the mean second moment of the regressors.
# The third regression, which forecasts logarithmic changes, has the first of these two penalties.
_SHRINKAGE = (1e-4, 1e-2)
# The ridge penalty of a lag is multiplied by this number, unless the lag is near or seasonal.
# A lag is seasonal if its value is a whole number of seasons before the last value or before the target.
_SHRINKAGE_OF_OTHERS = 30.0
_NEAR = 3  # a lag is near if it is fewer windows than this
# A row is fitted only if its active period has at least this many values before the row.
# In a batch of fewer than 600 windows, the limit is instead a third of the number of windows in the batch.
_VALUES_BEFORE_USE = 200
_MOST_ROWS = 400_000  # at most this many rows are fitted: a million would take ten seconds
# In the second fit, the weight of a row falls as its error in the first fit grows.
# An error counts as at least this many units, or rows with tiny errors would weigh too much.
_LEAST_ERROR = 0.1

assert len(_SHRINKAGE) == RIDGE_COUNT


def fit_linear(fleet: Fleet) -> Floats32:
    """Fit three ridge regressions for each horizon; return coefficients by regression, regressor and horizon.

    The coefficients are ``[3, F, N]`` float32. They are fitted to rows whose targets are all present and not
    held out. The last of the three is in logarithms, fitted to the rows in which the values and targets are
    above 0. Coefficients are 0 if there is no such row.

    Args:
        fleet: the series, and the row from which windows are held out.
    """
    count, horizon = regressor_count(fleet.network.ring), fleet.network.horizon
    penalty = _penalty(count, horizon, ring_season(fleet.network.ring, fleet.freq))
    fitted = []
    for logs, shares in ((False, _SHRINKAGE), (True, _SHRINKAGE[:1])):
        squares = _solve(*_moments(fleet, logs, None), penalty, shares[0]).astype(np.float32)
        moments = _moments(fleet, logs, squares)
        fitted += [_solve(*moments, penalty, share) for share in shares]
    return np.stack(fitted).astype(np.float32)


def typical_change(fleet: Fleet) -> float:
    """Return the median over series of the ratio of mean absolute change to mean absolute value, at most 1.

    A change is from window to window. Return 0 if no series has two values in a row.
    """
    values = fleet.windows.values[: fleet.held_from]
    changes, sizes = np.abs(np.diff(values, axis=0)), np.abs(values)
    several = (~np.isnan(changes)).any(axis=0)
    if not several.any():
        return 0.0
    size = np.nanmean(sizes[:, several], axis=0)
    change = np.nanmean(changes[:, several], axis=0)
    shares = change[size > 0] / size[size > 0]
    return float(min(np.median(shares), 1.0)) if len(shares) else 0.0


def _moments(fleet: Fleet, logs: bool, squares: Floats32 | None) -> tuple[Floats, Floats]:
    """Return weighted sums over rows of the products of regressors with each other, and with the targets.

    They are ``[F, F]`` and ``[F, N]``, for F regressors and N horizons. If
    coefficients ``squares`` of a least squares fit are given, rows with large errors in it weigh less.
    """
    count, horizon = regressor_count(fleet.network.ring), fleet.network.horizon
    second, mixed = np.zeros((count, count)), np.zeros((count, horizon))
    every = max(1, -(-fleet.windows.values.size // _MOST_ROWS))
    for number in range(len(fleet.batches)):
        for x, y, weight in _rows(fleet.batch(number), count, every, logs):
            if squares is not None:
                error = np.abs(y - x @ squares).mean(axis=1) * weight
                weight = weight / np.sqrt(np.maximum(error, _LEAST_ERROR))
            x *= weight[:, None]
            second += x.T @ x
            mixed += x.T @ (y * weight[:, None])
    return second, mixed


def _rows(
    batch: TrainingBatch, count: int, every: int, logs: bool
) -> Iterator[tuple[Floats32, Floats32, Floats32]]:
    """Yield chunks of the rows to fit: the regressors, the targets and the weight of each row.

    They are ``[n, F]``, ``[n, N]`` and ``[n]``, for n rows, F regressors and N horizons. Targets are
    changes from the last value, in units, or in logarithms if ``logs``.
    """
    block, horizon = batch.block, batch.ahead.shape[2]
    values_needed = min(_VALUES_BEFORE_USE, len(batch) // 3)
    is_usable = (block.observed > values_needed) & ~np.isnan(block.values)
    is_usable &= batch.first_target + np.arange(len(batch))[:, None] + horizon <= batch.held_from
    is_usable &= ~np.isnan(batch.ahead).any(axis=2)
    weight = _weight_of_logs(batch) if logs else batch.weight()
    if logs:
        is_usable &= (block.lowest > 0) & (batch.ahead > 0).all(axis=2) & (weight > 0)
    rows = np.arange(every - 1, len(batch), every)
    chunks: list[tuple[Floats32, Floats32, Floats32]] = []
    for piece in pieces(block, count, rows[is_usable[rows].any(axis=1)]):
        use = is_usable[piece.rows, piece.some]
        if not use.any():
            continue
        x = np.empty_like(piece.x[:-1])
        if logs:
            log_regressors(piece, block, x)
            last = block.last[piece.rows, piece.some][use]
            target = np.log(batch.ahead[piece.rows, piece.some][use] / last[:, None]).astype(np.float32)
        else:
            to_units = piece.size / block.unit[piece.rows, piece.some]
            np.multiply(piece.x[:-1], to_units.astype(np.float32), out=x)
            target = batch.targets(piece.rows)[:, piece.some][use]
        chunks.append((columns(x).T[use.ravel()], target, weight[piece.rows, piece.some][use]))
        if sum(len(part[0]) for part in chunks) >= 8192:
            yield _joined(chunks)
            chunks = []
    if chunks:
        yield _joined(chunks)


def _weight_of_logs(batch: TrainingBatch) -> Floats32:
    """Return the weight that each window (row) of an active period (column) has in the fit in logarithms.

    All windows of an active period have the same weight: 1 over the period's mean absolute change of
    logarithms from season to season. The weight is 0 if the period has no such change.
    """
    values, season = batch.block.values, batch.season
    is_learned = batch.first_target + np.arange(len(values))[:, None] <= batch.held_from
    logs = np.log(np.where(is_learned & (values > 0), values, np.nan))
    changes = np.abs(logs[season:] - logs[:-season])
    sums, counts = np.nansum(changes, axis=0), (~np.isnan(changes)).sum(axis=0)
    weight = np.divide(counts, sums, out=np.zeros(len(sums)), where=sums > 0)
    return np.broadcast_to(weight.astype(np.float32), values.shape)


def _joined(chunks: list[tuple[Floats32, Floats32, Floats32]]) -> tuple[Floats32, Floats32, Floats32]:
    """Join chunks of rows into one chunk."""
    x, y, weight = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return x, y, weight


def _penalty(count: int, horizon: int, season: int) -> Floats:
    """Return the factors that multiply the ridge penalty, by regressor (row) and horizon (column)."""
    lags = np.arange(count - 1, 0, -1)[:, None]
    horizons = np.arange(1, horizon + 1)
    is_shrunk_less = (lags < _NEAR) | (lags % season == 0) | ((lags + horizons) % season == 0)
    if season == 1:
        is_shrunk_less = np.broadcast_to(lags < _NEAR, is_shrunk_less.shape)
    of_mean = np.ones((1, horizon))
    return np.concatenate([np.where(is_shrunk_less, 1.0, _SHRINKAGE_OF_OTHERS), of_mean])


def _solve(second: Floats, mixed: Floats, penalty: Floats, share: float) -> Floats:
    """Return the ridge coefficients by regressor (row) and horizon (column); 0 if no rows could be fitted."""
    size = np.trace(second) / len(second)
    if not size > 0:
        return np.zeros_like(mixed)
    solved = np.empty_like(mixed)
    for h in range(mixed.shape[1]):
        solved[:, h] = np.linalg.solve(second + np.diag(share * size * penalty[:, h]), mixed[:, h])
    return solved
