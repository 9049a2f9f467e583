"""Fitting the linear part of a network: ridge regression in closed form, over the windows of all series.

One regression for each horizon, all on the same second moments. Rows are weighed so that errors count in
units of each series' average, and once more towards a fit of least absolute errors (iteratively reweighted
least squares; Schlossmacher 1973, "An iterative technique for absolute deviations curve fitting"). Lags that
lie whole seasons from the last value, or from the value forecast, are shrunk less than others.

Letters: T windows, B series of a batch, F regressors, N horizon, m windows of a season, n rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from forecaster.arrays import Floats, Floats32
from forecaster.components.network.log_ridge import log_regressors
from forecaster.components.network.ridge import RIDGES, columns, pieces, regressor_count
from forecaster.components.season import season_in
from forecaster.training.batches import Fleet
from forecaster.training.segments import Batch

_SHRINKAGE = (1e-4, 1e-2)  # of the mean second moment of a regressor
_SHRINKAGE_OF_OTHERS = 30.0  # times as much, of lags that are neither near nor whole seasons away
_NEAR = 3  # lags below this are
_SEEN = 200  # values that a series has had before its rows count, or a third of all windows
_MOST_ROWS = 400_000  # rows of a fleet that are looked at; a million take ten seconds
_LEAST_ERROR = 0.1  # units below which an error counts no more for being smaller

assert len(_SHRINKAGE) == RIDGES


def fit_linear(fleet: Fleet) -> Floats32:
    """``[3, F, N]`` ridge regressions of what is not held out; 0 where there is too little to learn from.

    The last is in logarithms, of the rows in which all that counts is above 0.

    Args:
        fleet: what to learn from; rows count whose targets all come before its held-out ones.
    """
    count, horizon = regressor_count(fleet.network.ring), fleet.network.horizon
    penalty = _penalty(count, horizon, season_in(fleet.network.ring, fleet.freq))
    fitted = []
    for logs, shares in ((False, _SHRINKAGE), (True, _SHRINKAGE[:1])):
        squares = _solve(*_moments(fleet, logs, None), penalty, shares[0]).astype(np.float32)
        moments = _moments(fleet, logs, squares)
        fitted += [_solve(*moments, penalty, share) for share in shares]
    return np.stack(fitted).astype(np.float32)


def typical_change(fleet: Fleet) -> float:
    """The usual change from window to window as a share of the usual value, of half of the series at most."""
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
    """Second moments ``[F, F]`` and those with the targets ``[F, N]``, weighed by errors of ``squares``."""
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


def _rows(batch: Batch, count: int, every: int, logs: bool) -> Iterator[tuple[Floats32, Floats32, Floats32]]:
    """Regressors ``[n, F]``, changes ``[n, N]`` and weights ``[n]`` of rows to learn from, some at a time."""
    block, horizon = batch.block, batch.ahead.shape[2]
    least = min(_SEEN, len(batch) // 3)
    known = (block.observed > least) & ~np.isnan(block.values)
    known &= batch.first_target + np.arange(len(batch))[:, None] + horizon <= batch.held_from
    known &= ~np.isnan(batch.ahead).any(axis=2)
    weight = _weight_of_logs(batch) if logs else batch.weight()
    if logs:
        known &= (block.lowest > 0) & (batch.ahead > 0).all(axis=2) & (weight > 0)
    rows = np.arange(every - 1, len(batch), every)
    held: list[tuple[Floats32, Floats32, Floats32]] = []
    for piece in pieces(block, count, rows[known[rows].any(axis=1)]):
        use = known[piece.rows, piece.some]
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
        held.append((columns(x).T[use.ravel()], target, weight[piece.rows, piece.some][use]))
        if sum(len(part[0]) for part in held) >= 8192:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _weight_of_logs(batch: Batch) -> Floats32:
    """``[T, B]``, one over the mean change of logarithms from season to season; 0 where there is none."""
    values, season = batch.block.values, batch.season
    known = batch.first_target + np.arange(len(values))[:, None] <= batch.held_from
    logs = np.log(np.where(known & (values > 0), values, np.nan))
    changes = np.abs(logs[season:] - logs[:-season])
    sums, counts = np.nansum(changes, axis=0), (~np.isnan(changes)).sum(axis=0)
    weight = np.divide(counts, sums, out=np.zeros(len(sums)), where=sums > 0)
    return np.broadcast_to(weight.astype(np.float32), values.shape)


def _joined(held: list[tuple[Floats32, Floats32, Floats32]]) -> tuple[Floats32, Floats32, Floats32]:
    x, y, weight = (np.concatenate(parts) for parts in zip(*held, strict=True))
    return x, y, weight


def _penalty(count: int, horizon: int, season: int) -> Floats:
    """``[F, N]``, how much each regressor is shrunk at each horizon."""
    lags = np.arange(count - 1, 0, -1)[:, None]
    ahead = np.arange(1, horizon + 1)
    less = (lags < _NEAR) | (lags % season == 0) | ((lags + ahead) % season == 0)
    if season == 1:
        less = np.broadcast_to(lags < _NEAR, less.shape)
    mean = np.ones((1, horizon))
    return np.concatenate([np.where(less, 1.0, _SHRINKAGE_OF_OTHERS), mean])


def _solve(second: Floats, mixed: Floats, penalty: Floats, share: float) -> Floats:
    """``[F, N]``: the regression of each horizon under its own penalty."""
    size = np.trace(second) / len(second)
    if not size > 0:
        return np.zeros_like(mixed)
    solved = np.empty_like(mixed)
    for h in range(mixed.shape[1]):
        solved[:, h] = np.linalg.solve(second + np.diag(share * size * penalty[:, h]), mixed[:, h])
    return solved
