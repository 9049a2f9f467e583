"""``statecast cold-start``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.cli.settings import configured
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
            help="The new series: a row each, series_id and the columns of covariates.static.",
            rich_help_panel=o.INPUT,
        ),
    ],
    at: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Where the first window begins: 2013-09-01 or 2013-09-01T05:00Z (UTC unless it has a zone).",
            rich_help_panel=o.INPUT,
        ),
    ],
    horizon: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            max=100_000,
            metavar="N",
            help="Forecast so many windows, more than the model was trained for, too; by default as many.",
            show_default=False,
            rich_help_panel=o.INPUT,
        ),
    ] = None,
    known: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            parser=o.local_path,
            metavar="FILE",
            help="What is known of the windows ahead, such as prices; as covariates.known.",
            show_default="covariates.known of the job file",
            rich_help_panel=o.INPUT,
        ),
    ] = None,
    first: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="COLUMN",
            help="Column of FILE with the value of the first window: what follows it is forecast.",
            show_default="none: nothing was observed",
            rich_help_panel=o.INPUT,
        ),
    ] = None,
    model: o.Model = None,
    tracking_uri: o.Store = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output",
            "-o",
            parser=o.local_path,
            metavar="FILE",
            help="Write the forecasts there, as .parquet or .jsonl; without it they are shown.",
            show_default=False,
            rich_help_panel=o.OUTPUT,
        ),
    ] = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Forecast series that have not begun: a whole trajectory of each, from what is known of it.

    A new shop has no sales yet, but a size and a place. A model that was trained with a table of such columns
    (covariates.static) and network.decoder = true says where its values will lie and how they will go on;
    with --first, from its first value on. A series that has values needs none of this: it is forecast by a
    backfill or a stream from its first row on.

    Example: statecast cold-start --model shops --series new-shops.csv --at 2024-03-01 --horizon 28 -o
    new.parquet
    """
    job = configured(
        config, settings, covariates__known=None if known is None else str(known),
        mlflow__tracking_uri=tracking_uri,
    )  # fmt: skip
    from pipelines.settings.config import time_of

    out = Out(as_json)
    begins = time_of("--at", at)
    if output is not None:
        from pipelines.sinks.folder import check_folder

        format_ = _format_of(output)
        check_folder(output.parent)
    from pipelines.cli.models import load_model
    from pipelines.sources.files.covariates import missing_tables, read_tables, with_tables

    name = model or job.mlflow.model
    forecaster = load_model(name, job, out)
    observed = forecaster.covariates.features.observed  # nothing was observed, which is no fault
    asked = job.covariates.model_copy(update={"static": str(series), "observed": observed})
    table = read_tables(asked).static
    assert table is not None
    for line in missing_tables(forecaster, asked):
        out.notice(line)
    from pipelines.jobs.cold_start import run_cold_start, write_cold_start

    forecaster = with_tables(forecaster, asked) if forecaster.covariates.features.static else forecaster
    steps = horizon or forecaster.network_config.horizon
    forecasts = run_cold_start(forecaster, table, begins, steps, first)
    if output is not None:
        write_cold_start(forecasts, output, format_)
    _show(out, forecasts, steps, output)
    told: dict[str, Any] = {
        "model_version": forecaster.version,
        "series": len(forecasts),
        "horizon": steps,
        "issued_at": forecasts["issued_at"][0].isoformat(),
        "output": None if output is None else str(output),
    }
    out.result(told if output is not None else told | {"forecasts": forecasts.select(*_ASKED).to_dicts()})


_ASKED = ("series_id", "forecast")


def _format_of(output: Path) -> Format:
    """Parquet or JSON lines, as the file is called."""
    if output.suffix == ".parquet":
        return "parquet"
    if output.suffix == ".jsonl":
        return "jsonl"
    raise ConfigError(f"--output {output}: call it .parquet or .jsonl")


def _show(out: Out, forecasts: pl.DataFrame, horizon: int, output: Path | None) -> None:
    series, issued_at = len(forecasts), forecasts["issued_at"][0]
    out.say(f"{series:,} new series, {horizon:,} windows each, from {issued_at:%Y-%m-%d %H:%M} on")
    if output is not None:
        out.say(f"forecasts: {output}")
        return
    out.console.print(_table(forecasts))
    if series > _SHOWN_ROWS:
        out.say(f"and {series - _SHOWN_ROWS:,} more; --output FILE keeps them all")


def _table(forecasts: pl.DataFrame) -> Table:
    """The first and the last window of the first series."""
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
