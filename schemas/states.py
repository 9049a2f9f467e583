"""Schema of the state table: one row holds the state of one series, from which a forecaster continues.

``clock`` is the end of the last closed window, and ``silent`` the number of windows closed since the last
row. The other columns are arrays of the model's components, with the names COMPONENT.ARRAY; a component
that is turned off has no columns.

- ``moments``: statistics of the values. ``observed`` is the number of windows with a value so far. It is 0
  for a series with a slot that has not begun, or that was silent for so long that it begins anew; its other
  columns then have no meaning. ``age`` is the number of windows since the last value. ``mean``,
  ``variance``, ``last`` and the running means of changes (``fast``, ``slow``, ``seasonal``) are in the unit
  of the series.
- ``ring``: the values of the last R windows, NaN if missing. Window ``w``, which ends ``(w + 1) * freq``
  after 1970, is item ``w % R``, counted from 0. So item ``(clock / freq - 1) % R`` is the last closed window,
  and the next item, or item 0, is the oldest window.
- ``network``: ``hidden`` and ``cell`` are ``[layers * hidden]``; ``expected`` is the forecast of each
  linear expert for the next window.
- ``past``: statistics and ring of each observed covariate. For a covariate ``temperature``, the columns are
  ``past.temperature.mean`` and so on, as in ``moments``, and ``past.temperature.ring``, as ``ring.values``.
- ``season``, the experts, ``stacking``, ``intervals``, ``anomaly``: numbers that the components learn from
  the series while it runs; see ``docs/architecture.md``.

Fixed-size arrays are accepted as lists.
"""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

from schemas.checking import checked

_F32S, _F64S = pl.List(pl.Float32()), pl.List(pl.Float64())

_REQUIRED: dict[str, pl.DataType] = {
    "series_id": pl.String(),
    "model_version": pl.String(),
    "clock": pl.Datetime("us", "UTC"),
    "silent": pl.Int64(),
    "moments.observed": pl.Int64(),
    "moments.mean": pl.Float64(),
    "moments.variance": pl.Float64(),
    "moments.fast": pl.Float64(),
    "moments.slow": pl.Float64(),
    "moments.run": pl.UInt8(),
    "moments.seasonal": pl.Float64(),
    "moments.seasons": pl.Int64(),
    "moments.lowest": pl.Float64(),
    "moments.highest": pl.Float64(),
    "moments.falls": pl.Float64(),
    "moments.rises": pl.Float64(),
    "moments.last": pl.Float64(),
    "moments.age": pl.Int64(),
    "network.hidden": _F32S,
}
_OPTIONAL: dict[str, pl.DataType] = {
    "ring.values": _F64S,
    "network.cell": _F32S,
    "network.expected": _F32S,
    "season.shape": _F64S,
    "season.seen": pl.List(pl.UInt8()),
    "least_squares.weights": _F32S,
    "least_squares.inverse": _F32S,
    "least_squares.known": pl.Int32(),
    "seasonal_least_squares.weights": _F32S,
    "seasonal_least_squares.inverse": _F32S,
    "seasonal_least_squares.known": pl.Int32(),
    "seasonal_least_squares.means": _F64S,
    "stacking.squares": _F32S,
    "stacking.products": _F32S,
    "stacking.waiting": _F32S,
    "stacking.issued": _F64S,
    "intervals.offset": _F32S,
    "intervals.unit": _F64S,
    "intervals.known": pl.List(pl.Int32()),
    "intervals.issued": _F64S,
    "anomaly.expected": _F64S,
    "anomaly.beyond": _F32S,
    "anomaly.known": pl.Int32(),
    "anomaly.lasting": _F32S,
    "anomaly.runs": pl.Int32(),
    "anomaly.run": pl.Int32(),
    "anomaly.last": pl.Float64(),
    "anomaly.budget": pl.Float64(),
    "anomaly.alarming": pl.UInt8(),
}
SCHEMA: dict[str, pl.DataType] = _REQUIRED | _OPTIONAL
"""Columns and types of a state table. Columns of components that are turned off are absent; so is the column
``network.cell`` of a network without cells."""

_NOT_NEGATIVE = ("silent", "moments.observed", "moments.age", "moments.variance")
_NULLABLE = ("moments.mean", "moments.variance", "moments.last", "anomaly.last")


def _column(name: str, dtype: pl.DataType) -> pa.Column:
    checks = [pa.Check.str_contains(r"\S")] if dtype == pl.String else []
    checks += [pa.Check.ge(0)] if name in _NOT_NEGATIVE else []
    return pa.Column(dtype, checks, nullable=name in _NULLABLE, required=name in _REQUIRED)


_STATES = pa.DataFrameSchema(
    {name: _column(name, dtype) for name, dtype in SCHEMA.items()},
    strict=True,
    unique=["series_id", "model_version", "clock"],
)


def check_states(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a state table, with arrays converted to lists, if it is valid.

    Raises:
        DataError: a column is absent, unknown or of another type, a count or variance is negative, or a
            series has two states with the same version and clock.
    """
    covariates = {n: _of_covariate(n) for n in frame.columns if n.startswith("past.")}
    known = {**SCHEMA, **{n: dtype for n, dtype in covariates.items() if dtype is not None}}
    arrays = [n for n, t in frame.schema.items() if isinstance(t, pl.Array) and n in known]
    more = {n: pa.Column(dtype) for n, dtype in known.items() if n in covariates}
    schema = _STATES.add_columns(more) if more else _STATES
    return checked(frame.with_columns(pl.col(n).arr.to_list() for n in arrays), schema, "state table")


def _of_covariate(column: str) -> pl.DataType | None:
    """Return the type of a column of an observed covariate; None if a covariate has no such column."""
    field = column.rpartition(".")[2]
    return _F64S if field == "ring" else SCHEMA.get(f"moments.{field}")
