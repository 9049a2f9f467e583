"""The command ``statecast cold-start``, which forecasts series that have no values yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.cli.settings import load_settings
from schemas.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table

    from pipelines.sinks.files import Format

_SHOWN_ROWS = 12


def cold_start(
    series: Annotated[
        Path,
        typer.Option(
            "--series",
            parser=o.local_path,
            metavar="FILE",
            help="File with a row for each new series: series_id and the columns of covariates.static.",
            rich_help_panel=o.INPUT,
        ),
    ],
    at: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Beginning of the first window: 2013-09-01 or 2013-09-01T05:00Z (UTC unless it has a zone).",
            rich_help_panel=o.INPUT,
        ),
    ],
    horizon: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            metavar="N",
            help="Number of windows to forecast, by default as many as in training; more are possible.",
            show_default=False,
            rich_help_panel=o.INPUT,
        ),
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(
            parser=o.local_path,
            metavar="FILE",
            help="Table of known covariates of future windows, such as prices; replaces covariates.known.",
            show_default="covariates.known of the job file",
            rich_help_panel=o.INPUT,
        ),
    ] = None,
    first: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of FILE with the value of the first window; forecasts then begin with the second.",
            show_default="none, no value is observed",
            rich_help_panel=o.INPUT,
        ),
    ] = None,
    model: o.Model = None,
    tracking_uri: o.Store = None,
    output: Annotated[
        Path | None,
        o.output_file(
            "File that the forecasts are written to, .parquet or .jsonl; without it they are printed.",
            show_default=False,
        ),
    ] = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Forecast series that have no values yet, from their static covariates.

    A new shop has no sales yet, but a size and a place. A model that was trained with a table of such columns
    (covariates.static) and network.decoder = true forecasts the level and the course of its values; with
    --first, from its first value on. A series that has values does not need this command: a backfill or a
    stream forecasts it from its first row on.

    Example: statecast cold-start --model shops --series new-shops.csv --at 2024-03-01 --horizon 28 -o
    new.parquet
    """
    job = load_settings(
        config, settings, covariates__known=None if known is None else str(known),
        mlflow__tracking_uri=tracking_uri,
    )  # fmt: skip
    from pipelines.settings.setting_types import time_of

    out = Out(as_json)
    begins = time_of("--at", at)
    if output is not None:
        from pipelines.storage import store_of

        format_ = _format_of(output)
        store_of(output.parent).check_writable()
    from pipelines.cli.models import load_model
    from pipelines.sources.files.covariates import missing_tables, read_tables, with_tables

    name = model or job.mlflow.model
    forecaster = load_model(name, job, out)
    # New series have no observed covariates, so do not report these as missing.
    observed = forecaster.covariates.features.observed
    tables = job.covariates.model_copy(update={"static": str(series), "observed": observed})
    table = read_tables(tables).static
    assert table is not None
    for line in missing_tables(forecaster, tables):
        out.notice(line)
    from pipelines.jobs.cold_start import run_cold_start, write_cold_start

    forecaster = with_tables(forecaster, tables) if forecaster.covariates.features.static else forecaster
    steps = horizon or forecaster.network_config.horizon
    forecasts = run_cold_start(forecaster, table, begins, steps, first)
    if output is not None:
        write_cold_start(forecasts, output, format_)
    _show(out, forecasts, steps, output)
    summary: dict[str, Any] = {
        "model_version": forecaster.version,
        "series": len(forecasts),
        "horizon": steps,
        "issued_at": forecasts["issued_at"][0].isoformat(),
        "output": None if output is None else str(output),
    }
    out.result(
        summary
        if output is not None
        else summary | {"forecasts": forecasts.select(*_PRINTED_COLUMNS).to_dicts()}
    )


_PRINTED_COLUMNS = ("series_id", "forecast")


def _format_of(output: Path) -> Format:
    """Return the format of the output file, according to its suffix.

    Raises:
        ConfigError: the suffix is neither .parquet nor .jsonl.
    """
    if output.suffix == ".parquet":
        return "parquet"
    if output.suffix == ".jsonl":
        return "jsonl"
    raise ConfigError(f"--output {output}: the name must end with .parquet or .jsonl")


def _show(out: Out, forecasts: pl.DataFrame, horizon: int, output: Path | None) -> None:
    series, issued_at = len(forecasts), forecasts["issued_at"][0]
    out.say(f"{series:,} new series, {horizon:,} windows each, from {issued_at:%Y-%m-%d %H:%M} on")
    if output is not None:
        out.say(f"forecasts: {output}")
        return
    out.console.print(_table(forecasts))
    if series > _SHOWN_ROWS:
        out.say(f"and {series - _SHOWN_ROWS:,} more; --output FILE writes them all")


def _table(forecasts: pl.DataFrame) -> Table:
    """Return a table of the forecasts of the first `_SHOWN_ROWS` series at the first and last horizon."""
    import polars as pl
    from rich.table import Table

    rows = forecasts.head(_SHOWN_ROWS).explode("forecast").unnest("forecast")
    ends = rows.filter(pl.col("horizon").is_in([1, rows["horizon"].max()]))
    quantiles = [name for name in ends.columns if name.startswith("q")]
    shown = Table()
    shown.add_column("series")
    for name in ("horizon", *quantiles):
        shown.add_column(name, justify="right")
    for row in ends.iter_rows(named=True):
        shown.add_row(row["series_id"], str(row["horizon"]), *(f"{row[q]:,.4g}" for q in quantiles))
    return shown
