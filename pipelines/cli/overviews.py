"""The commands ``statecast runs`` and ``statecast models``, which list the runs and the models in MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.cli.settings import load_settings
from pipelines.cli.stores import store_line

if TYPE_CHECKING:
    import polars as pl

    from forecaster.registry.registry import Registry
    from pipelines.settings.config import JobConfig

_SCORES = {
    "skill": "backtest/skill_vs_persistence",
    "vs seasonal": "backtest/skill_vs_seasonal_naive",
    "MASE h1": "backtest/mase_h1",
    "h24": "backtest/mase_h24",
    "in 90 %": "backtest/coverage_90",
}
"""Heading of a column -> the metric in it."""
_NEWEST = 1000  # Only this many runs, the newest, are read and sorted by skill.

Limit = Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, help="Number of rows to print.")]


def runs(
    limit: Limit = 20,
    tracking_uri: o.Store = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """List the runs of the experiment, the highest skill first.

    The skill is 1 minus the ratio of the run's MASE to that of persistence in the backtest, averaged over the
    horizons 1, 3, 6, 12 and 24. A horizon that the model does not forecast counts as 0, so models with
    different horizons can be compared. Runs without a backtest follow, the newest first.

    Example: statecast runs --tracking-uri http://127.0.0.1:5000
    """
    job, out = load_settings(config, settings, mlflow__tracking_uri=tracking_uri), Out(as_json)
    found = _by_skill(_registry(job, out).runs(_NEWEST), "started").head(limit)
    table = _table("run", "status", "job", *_SCORES, "started", "s")
    for row in found.to_dicts():
        took = "" if row["seconds"] is None else f"{row['seconds']:,.0f}"
        table.add_row(
            row["name"], row["status"].lower(), row["job"] or "", *_scores(row),
            f"{row['started']:%Y-%m-%d %H:%M}", took,
        )  # fmt: skip
    out.say(store_line(job.mlflow))
    out.console.print(table)
    out.result({"runs": found.to_dicts()})


def models(
    limit: Limit = 20,
    tracking_uri: o.Store = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """List the registered models: their versions, the newest first, with aliases and backtest scores.

    Example: statecast models
    """
    job, out = load_settings(config, settings, mlflow__tracking_uri=tracking_uri), Out(as_json)
    found = _registry(job, out).models().head(limit)
    table = _table("version", "aliases", "weights", *_SCORES, "registered")
    for row in found.to_dicts():
        table.add_row(
            f"{row['name']}/{row['version']}", ", ".join(row["aliases"]), row["model_version"],
            *_scores(row), f"{row['created']:%Y-%m-%d %H:%M}",
        )  # fmt: skip
    out.say(store_line(job.mlflow))
    out.console.print(table)
    for row in found.to_dicts():
        if row["aliases"] and row["description"]:
            out.say(f"{row['name']}/{row['version']}: {row['description']}")
    out.result({"versions": found.to_dicts()})


def _registry(job: JobConfig, out: Out) -> Registry:
    """Open the model registry of a job; raise ModelError if the MLflow store of its runs does not exist.

    Raises:
        ModelError: the store does not exist.
    """
    from forecaster.registry.store import Store
    from pipelines.cli.preflight import check_store

    check_store(job.mlflow)
    Store.parse(job.mlflow.tracking_uri).check_exists()
    with out.loading("MLflow"):
        from pipelines.jobs.registry import open_registry

        return open_registry(job.mlflow)


def _by_skill(found: pl.DataFrame, then: str) -> pl.DataFrame:
    """Sort runs by skill, and then by the column ``then``, both in descending order; nulls come last."""
    skill = [name for name in (_SCORES["skill"],) if name in found.columns]
    return found.sort(*skill, then, descending=True, nulls_last=True)


def _table(*names: str) -> Table:
    """Return an empty table with the named columns for the terminal, without vertical lines."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in names:
        is_number = name in _SCORES or name == "s"
        table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    return table


def _scores(row: dict[str, Any]) -> list[str]:
    """Return the scores of a run or version as cells of a table; a missing score is an empty cell."""
    values = [row.get(metric) for metric in _SCORES.values()]
    return ["" if value is None else f"{value:.3f}" for value in values]
