"""What a forecast is: all horizons of one series, issued at one time by one model version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import pandera.polars as pa
import polars as pl

from schemas.checking import checked
from schemas.errors import DataError

IDENTITY = ("series_id", "issued_at", "model_version", "revision")
"""What tells one forecast from another; a rerun writes the same identities with the same values."""


def quantile_column(level: float) -> str:
    """The name of a quantile in the nested frame: 0.1 is ``q10``, 0.025 is ``q2.5``."""
    return f"q{round(level * 100, 6):g}"


def forecast_type(quantiles: Sequence[float]) -> pl.List:
    """The type of the nested column ``forecast`` for these quantile levels."""
    fields = {"horizon": pl.Int16()} | {quantile_column(level): pl.Float64() for level in quantiles}
    return pl.List(pl.Struct(fields))


def schema(quantiles: Sequence[float]) -> dict[str, pl.DataType]:
    """Columns and types of a forecast frame with these quantile levels."""
    return {
        "series_id": pl.String(),
        "issued_at": pl.Datetime("us", "UTC"),
        "model_version": pl.String(),
        "revision": pl.Int32(),
        "p_value": pl.Float64(),
        "alarm": pl.Boolean(),
        "forecast": forecast_type(quantiles),
    }


class Forecast(pa.DataFrameModel):
    """One row a forecast, nested by horizon.

    ``issued_at`` is the end of the last closed window; horizon ``h`` forecasts the window ``[issued_at +
    (h-1) freq, issued_at + h freq)``, which is the ``h``-th month from there where windows are months.
    ``revision`` counts repairs by late rows from 0. ``p_value`` says how likely a value is that is as far
    from what was forecast for it as the one of the window that ends at ``issued_at``, and ``alarm``
    whether that is rarer than the series may be; both are null without a value or a forecast for it.
    ``forecast`` lists structs of ``horizon`` and one Float64 per quantile, in the units of the series.
    """

    series_id: pl.String = pa.Field(str_contains=r"\S")
    issued_at: Annotated[pl.Datetime, "us", "UTC"]
    model_version: pl.String = pa.Field(str_contains=r"\S")
    revision: pl.Int32 = pa.Field(ge=0)
    p_value: pl.Float64 = pa.Field(nullable=True, ge=0, le=1)
    alarm: pl.Boolean = pa.Field(nullable=True)
    forecast: pl.List

    class Config:
        """Exactly these columns; an identity comes once."""

        strict = True
        unique = list(IDENTITY)  # noqa: RUF012 - pandera's own form


_FORECASTS = Forecast.to_schema()


def check_forecasts(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame, if it is a forecast frame.

    Raises:
        DataError: A column is absent or of another type, an identity comes twice, a horizon is below 1,
            a list is empty or a forecast value is null or not finite.
    """
    checked(frame, _FORECASTS, "forecasts")
    inner = frame.schema["forecast"]
    fields = inner.inner if isinstance(inner, pl.List) else None
    names = [f.name for f in fields.fields] if isinstance(fields, pl.Struct) else []
    if names[:1] != ["horizon"] or len(names) < 2 or not all(n.startswith("q") for n in names[1:]):
        raise DataError(f"forecasts: column forecast: {inner} is no list of horizon and quantiles")
    if frame.is_empty():
        return frame
    flat = frame.select(pl.col("forecast").explode(empty_as_null=True, keep_nulls=True)).unnest("forecast")
    wrong = flat.select(
        pl.col("horizon").lt(1).fill_null(True).any(),
        *(pl.col(n).is_finite().not_().fill_null(True).any() for n in names[1:]),
    )
    for name, fails in wrong.row(0, named=True).items():
        if fails:
            kind = "below 1 or missing" if name == "horizon" else "missing or not finite"
            raise DataError(f"forecasts: column forecast: a {name} is {kind}")
    return frame
