"""The command ``statecast forecast``, which goes from files to forecasts in one call."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.cli.job_progress import job_progress, max_epochs
from pipelines.cli.settings import input_files, load_settings, paths
from schemas.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

    from pipelines.jobs.file_forecast import FileForecast

_SHOWN_ROWS = 24
_HISTORY = 3  # number of past windows that the plot shows for each window that is forecast


def forecast(
    data: o.Data = None,
    horizon: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            metavar="N",
            help="Number of windows to forecast.",
            show_default="24; with --model, the horizon of the model",
            rich_help_panel=o.NETWORK,
        ),
    ] = None,
    freq: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Length of a window: 15m, 1h, 1d, 1w-sun, 1mo.",
            show_default="the one that fits the times of the rows",
            rich_help_panel=o.INPUT,
        ),
    ] = None,
    wide: o.Wide = False,
    start: o.Start = None,
    end: o.End = None,
    skip_bad_files: o.SkipBad = None,
    quantiles: Annotated[
        str | None,
        typer.Option(
            metavar="Q,Q,...",
            help="Quantile levels to forecast beside the median.",
            show_default="0.05,0.95; with --model, the levels of the model",
            rich_help_panel=o.NETWORK,
        ),
    ] = None,
    model: Annotated[str | None, o.model_option("none: train one with the default settings")] = None,
    tracking_uri: o.Store = None,
    output: Annotated[
        Path | None,
        o.output_file(
            "File that the forecasts are written to: .csv, .parquet or .jsonl.",
            show_default="a table and a plot on the terminal, or CSV into a pipe",
        ),
    ] = None,
    seed: o.Seed = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Forecast every series of a file in one call; each forecast begins after the series' last value.

    The command finds the frequency of the rows, trains a network on all series with the default settings (or
    loads --model), steps every series to its end, and writes one row for each series and window ahead:
    series_id, timestamp (the start of the window, UTC), horizon, forecast (the median) and the quantiles. The
    last line compares a backtest on the last tenth of the windows with seasonal naive, so you know how far to
    trust the forecasts. Nothing is registered in MLflow; statecast train does that.

    Example: statecast forecast weather.parquet --horizon 24 -o forecast.csv
    """
    levels = None if quantiles is None else _levels(quantiles)
    trained_levels = None if levels is None else str(sorted({*levels, 0.5}))
    job = load_settings(
        config, settings, data__paths=paths(data), data__start=start, data__end=end,
        data__layout="wide" if wide else None, data__skip_bad_files=skip_bad_files, windows__freq=freq,
        network__horizon=horizon, network__quantiles=trained_levels, training__seed=seed,
        mlflow__tracking_uri=tracking_uri,
    )  # fmt: skip
    if model is not None and freq is not None:
        raise ConfigError("--freq has no effect with --model, which has its own windows: leave it out")
    out = Out(as_json)
    with out.loading("Polars"):
        if output is not None:
            _check_output(output)
        input_files(job)
    forecaster = None
    if model is not None:
        with out.loading("torch"):
            from pipelines.cli.models import load_model
            from pipelines.sources.files.covariates import with_tables

        forecaster = with_tables(load_model(model, job, out), job.covariates)
        network = forecaster.network_config
        job = job.model_copy(update={"network": network})
        job = job.with_settings({"network.horizon": horizon or network.horizon})
    levels = levels or tuple(level for level in job.network.quantiles if level != 0.5)
    with out.loading("torch"):
        from pipelines.jobs.file_forecast import forecast_files
        from pipelines.sinks.flat_forecasts import write_forecasts

    work = ("stepping", None) if forecaster else ("training", max_epochs(job))
    with job_progress(out, *work) as progress:
        found = forecast_files(job, forecaster, levels, progress)
    if output is not None:
        write_forecasts(found.forecasts, output)
    _show(out, found, output)
    out.result(_summary(found, output))


def _levels(text: str) -> tuple[float, ...]:
    """Return the levels that the option --quantiles lists, ascending and without the median (0.5).

    Raises:
        ConfigError: a part of the list is not a number between 0 and 1.
    """
    try:
        levels = tuple(sorted({float(part) for part in text.split(",")} - {0.5}))
    except ValueError:
        levels = (0.0,)
    if not all(0 < level < 1 for level in levels):
        raise ConfigError(f"--quantiles {text}: write levels between 0 and 1, such as 0.05,0.95")
    return levels


def _check_output(output: Path) -> None:
    """Raise an error if the suffix of the output file is unknown or its folder cannot be written."""
    from pipelines.sinks.flat_forecasts import SUFFIXES
    from pipelines.storage import store_of

    if output.suffix not in SUFFIXES:
        raise ConfigError(f"--output {output}: the name must end with .csv, .parquet or .jsonl")
    store_of(output.parent).check_writable()


def _show(out: Out, found: FileForecast, output: Path | None) -> None:
    """Print the notices; without ``--json``, also print the forecasts, the counts of rows and the backtest.

    If there is an output file, print its name instead of the forecasts. A terminal shows a plot and the
    first rows of the first series only; a pipe gets all forecasts as CSV.
    """
    for line in found.notices:
        out.notice(line)
    if out.as_json:
        return
    is_piped = output is None and not sys.stdout.isatty()
    if is_piped:
        from pipelines.sinks.flat_forecasts import with_text_times

        sys.stdout.write(with_text_times(found.forecasts).write_csv())
    elif output is None:
        _show_first(out, found)
    say = out.notice if is_piped else out.say  # a pipe must get only rows on stdout
    used = found.rows - found.duplicates
    say(
        f"{found.rows + found.quarantined:,} rows in = {used:,} used + {found.quarantined:,} quarantined "
        f"+ {found.duplicates:,} duplicate"
    )
    if output is not None:
        series = found.forecasts["series_id"].n_unique()
        say(f"{len(found.forecasts):,} forecasts of {series:,} series: {output}")
    say(_backtest_line(found))


def _show_first(out: Out, found: FileForecast) -> None:
    """Print a plot and a table of the forecasts of the first series."""
    import polars as pl
    from rich.table import Table

    from pipelines.cli.terminal_plot import fan_plot

    first = found.forecasts["series_id"][0]
    rows = found.forecasts.filter(pl.col("series_id") == first)
    plot = fan_plot(_fan_frame(found, rows), first, out.console.width)
    out.console.print(plot, markup=False, highlight=False)
    table = Table(title=first)
    for name in rows.columns[1:]:
        table.add_column(name, justify="right")
    for row in rows.drop("series_id").head(_SHOWN_ROWS).iter_rows():
        table.add_row(f"{row[0]:%Y-%m-%d %H:%M}", str(row[1]), *(f"{value:,.4g}" for value in row[2:]))
    out.console.print(table)
    others = found.forecasts["series_id"].n_unique() - 1
    if others or len(rows) > _SHOWN_ROWS:
        out.say(f"and {others:,} other series; --output forecast.csv writes all forecasts")


def _fan_frame(found: FileForecast, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the last values and the forecasts of one series (see `forecaster.reports.fan_plot.fan_figure`).

    Args:
        found: forecasts and history of all series.
        rows: flat forecasts of the series.
    """
    import polars as pl

    from forecaster.time.frequency import Frequency

    freq, windows = Frequency.parse(found.freq), found.windows
    last = freq.window_of(int(rows["timestamp"].to_physical()[0])) - 1
    is_shown = (windows.index > last - _HISTORY * len(rows)) & (windows.index <= last)
    observed = pl.DataFrame(
        {
            "target_at": freq.start_us(windows.index[is_shown]),
            "observed": windows.values[is_shown, windows.series_ids.index(rows["series_id"][0])],
        },
        schema_overrides={"target_at": pl.Datetime("us", "UTC")},
    )
    fan = rows.select(
        pl.col("timestamp").alias("target_at"),
        pl.col("timestamp").min().alias("issued_at"),
        pl.col("forecast").alias("q50"),
        *rows.columns[4:],
    )
    return pl.concat([observed.fill_nan(None), fan], how="diagonal")


def _mean_errors(found: FileForecast) -> dict[str, float]:
    """Return each model's mean MASE in the backtest over all horizons; {} if there was no backtest."""
    if not len(found.scores):
        return {}
    return dict(found.scores.group_by("model", maintain_order=True).mean().select("model", "mae").iter_rows())


def _backtest_line(found: FileForecast) -> str:
    """Return a line with the backtest errors of the model and of seasonal naive, or why there are none."""
    errors = _mean_errors(found)
    if not errors:
        return "no backtest: too few windows to hold some out"
    own, naive = next(iter(errors.values())), errors["seasonal naive"]
    share = (
        f"{abs(1 - own / naive):.0%} {'smaller' if own <= naive else 'LARGER'}" if naive else "not comparable"
    )
    return (
        f"backtest on the last tenth of the windows: MASE {own:.3g}, seasonal naive {naive:.3g}: "
        f"the errors are {share}"
    )


def _summary(found: FileForecast, output: Path | None) -> dict[str, Any]:
    """Return the object that ``--json`` prints; without an output file it contains the forecasts."""
    summary: dict[str, Any] = {
        "freq": found.freq,
        "freq_reason": found.reason,
        "model_version": found.forecaster.version,
        "series": found.forecasts["series_id"].n_unique(),
        "rows_in": found.rows + found.quarantined,
        "used": found.rows - found.duplicates,
        "quarantined": found.quarantined,
        "duplicates": found.duplicates,
        "outside": found.outside,
        "backtest_mase": _mean_errors(found),
        "output": None if output is None else str(output),
    }
    return summary if output is not None else summary | {"forecasts": found.forecasts.to_dicts()}
