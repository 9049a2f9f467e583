"""Schema of forecasts.

One row holds the forecast that one model version issued for one series at one time, for all horizons.
"""

from __future__ import annotations

from typing import Annotated

import pandera.polars as pa
import polars as pl

from schemas.checking import checked
from schemas.errors import DataError

IDENTITY = ("series_id", "issued_at", "model_version", "revision")
"""The columns that identify a forecast.

If a job runs again, it writes forecasts with the same values in these columns, and the same forecast values.
"""


def quantile_column(level: float) -> str:
    """Return the name of the column of a quantile, such as ``q10`` for level 0.1 and ``q2.5`` for 0.025."""
    return f"q{round(level * 100, 6):g}"


class Forecast(pa.DataFrameModel):
    """The forecast of one series at one issue time, for all horizons.

    - ``issued_at``: the issue time, the end of the last window that had closed.
    - ``model_version``: the version of the model that made the forecast.
    - ``revision``: the number of late rows that this forecast takes into account, see ``windows.repair``.
    - ``p_value``: how unusual the value of the window that ends at ``issued_at`` is: the probability of a
      value that is at least as far from its forecast. Null if the window has no value or no forecast.
    - ``alarm``: True if an anomaly begins in that window, which requires a p-value below the threshold of the
      series. Null if ``p_value`` is null.
    - ``forecast``: a list with a struct for each horizon. Its fields are ``horizon`` and one Float64 for each
      quantile, in the unit of the series. Horizon ``h`` is the window ``[issued_at + (h-1) freq,
      issued_at + h freq)``; if windows are months, it is the ``h``-th month from ``issued_at``.
    """

    series_id: pl.String = pa.Field(str_contains=r"\S")
    issued_at: Annotated[pl.Datetime, "us", "UTC"]
    model_version: pl.String = pa.Field(str_contains=r"\S")
    revision: pl.Int32 = pa.Field(ge=0)
    p_value: pl.Float64 = pa.Field(nullable=True, ge=0, le=1)
    alarm: pl.Boolean = pa.Field(nullable=True)
    forecast: pl.List

    class Config:
        """A frame of forecasts has exactly these columns, and no two rows with the same `IDENTITY`."""

        strict = True
        unique = list(IDENTITY)  # noqa: RUF012 - pandera's own form


_FORECASTS = Forecast.to_schema()


def check_forecasts(frame: pl.DataFrame) -> pl.DataFrame:
    """Return ``frame`` unchanged if it is a valid frame of forecasts, else raise a `DataError`.

    Raises:
        DataError: a column is absent or of another type, two rows have equal values in the columns of
            `IDENTITY`, a horizon is below 1, the list of a row is empty, or a forecast value is null or not
            finite.
    """
    checked(frame, _FORECASTS, "forecasts")
    inner = frame.schema["forecast"]
    fields = inner.inner if isinstance(inner, pl.List) else None
    names = [f.name for f in fields.fields] if isinstance(fields, pl.Struct) else []
    if names[:1] != ["horizon"] or len(names) < 2 or not all(n.startswith("q") for n in names[1:]):
        raise DataError(
            f"forecasts: the column forecast must hold lists of structs of horizon and quantiles, not {inner}"
        )
    if frame.is_empty():
        return frame
    flat = frame.select(pl.col("forecast").explode(empty_as_null=True, keep_nulls=True)).unnest("forecast")
    wrong = flat.select(
        pl.col("horizon").lt(1).fill_null(True).any(),
        *(pl.col(n).is_finite().not_().fill_null(True).any() for n in names[1:]),
    )
    for field, fails in wrong.row(0, named=True).items():
        if fails:
            fault = "below 1 or missing" if field == "horizon" else "missing or not finite"
            raise DataError(f"forecasts: in column forecast, a value of {field} is {fault}")
    return frame
