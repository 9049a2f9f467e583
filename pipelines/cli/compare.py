"""The command ``statecast compare``, and the tables of a comparison on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.cli.job_progress import job_progress
from pipelines.cli.settings import input_files, load_settings, paths
from pipelines.cli.stores import store_line
from schemas.numbers_as_text import text_of

if TYPE_CHECKING:
    from pipelines.jobs.compare import Compared

_SHOWN_HORIZONS = (1, 2, 3, 6, 12, 18, 24)


def compare(
    champion: Annotated[
        str,
        typer.Argument(
            help="Model in use: NAME@champion, NAME/3, a run id, or a folder.", metavar="CHAMPION"
        ),
    ],
    challenger: Annotated[
        str,
        typer.Argument(
            help="Model that may replace it, named in the same ways, such as NAME@challenger.",
            metavar="CHALLENGER",
        ),
    ],
    data: o.Data = None,
    start: o.Start = None,
    end: o.End = None,
    skip_bad_files: o.SkipBad = None,
    tracking_uri: o.Store = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Compare the forecasts of two models on the same recent data.

    Both models are stepped through DATA as a stream does. The first part of DATA warms them up, and windows
    that a model was trained on are not scored. The command prints, for each horizon, skill, MASE, weighted
    quantile loss, coverage and width, and how much smaller the challenger's pinball loss is, with a
    confidence interval: in all, by horizon, and by class of series. Tables and pictures are logged in an
    MLflow run.

    Example: statecast compare weather@champion weather@challenger recent.parquet
    """
    job = load_settings(
        config, settings, data__paths=paths(data), data__start=start, data__end=end,
        data__skip_bad_files=skip_bad_files, mlflow__tracking_uri=tracking_uri,
    )  # fmt: skip
    out = Out(as_json)
    from pipelines.cli.preflight import check_model, check_store

    for ref in (champion, challenger):
        check_model(ref, job.mlflow)
    check_store(job.mlflow)
    input_files(job)
    with out.loading("torch and MLflow"):
        from pipelines.jobs.compare import run_compare
    with job_progress(out, replays=True) as progress:
        compared = run_compare(job, champion, challenger, progress)
    show_comparison(out, compared)
    out.say(store_line(job.mlflow))
    out.say(f"run {compared.run_id}: statecast ui --tracking-uri {job.mlflow.tracking_uri}")
    out.result(compared.as_json())


def show_comparison(out: Out, compared: Compared) -> None:
    """Print the notices and the tables of a comparison."""
    found = compared.comparison
    for line in compared.notices:
        out.notice(line)
    start, end = compared.scored
    series = sum(found.series_by_class.values())
    out.say(
        f"{series:,} series, forecasts issued from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC; "
        f"champion {found.champion}, challenger {found.challenger}"
    )
    out.console.print(_scores_table(compared))
    out.say("share by which the pinball loss of the challenger is smaller than that of the champion:", "bold")
    out.console.print(_improvements_table(compared))
    out.say(
        f"intervals: {found.confidence:.0%} confidence, from {found.issues:,} issue times in blocks of "
        f"{found.block}"
    )


def _scores_table(compared: Compared) -> Table:
    """Return a table of the scores of two models, with one row for each shown horizon and model."""
    scores = compared.comparison.scores
    last = int(scores["horizon"].max())  # type: ignore[arg-type]
    measures = ("skill", "mase", "wql", "coverage", "width")
    table = Table("horizon", "model", *measures, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in scores.sort("horizon", maintain_order=True).to_dicts():
        if row["horizon"] in (*_SHOWN_HORIZONS, last):
            texts = ("" if row[name] is None else text_of(row[name]) for name in measures)
            table.add_row(str(row["horizon"]), row["model"], *texts)
    return table


def _improvements_table(compared: Compared) -> Table:
    """Return a table of the improvements: overall, by class of series, and at the shown horizons."""
    from pipelines.jobs.comparison_log import labelled_improvements

    improvements = labelled_improvements(compared.comparison)
    horizons = compared.comparison.by_horizon
    hidden = {f"horizon {h}" for h in horizons if h not in (*_SHOWN_HORIZONS, len(horizons))}
    table = Table("", "improvement", "from", "to", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for label, numbers in improvements.items():
        if label not in hidden:
            table.add_row(label, *(f"{number:+.2%}" for number in numbers))
    return table
