"""Compute the scores of a rolling evaluation; return them as JSON, write a report, log them to MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from forecaster.arrays import Floats
from forecaster.evaluation.metrics import COVERAGE, Tally
from forecaster.evaluation.rolling import FanSample, Split
from forecaster.evaluation.skill import SEASONAL_NAIVE, BaselineComparison
from forecaster.registry.registry import Run
from forecaster.reports import fan_plot, plots
from forecaster.reports.html import Picture, ReportTable, least, write_report
from schemas.errors import DataError
from schemas.scores import MEMBER_MEASURES, MEMBER_SCHEMA, check_member_scores

_NOTE = (
    "Each score covers horizons 1 to this one: it is the mean of each series, averaged over the series. "
    "coverage_90 and width_90 describe the 90 % interval at this horizon only. mse, mae and width_90 are in "
    "the unit of the values, mase and msis in multiples of the error of seasonal naive on the training rows, "
    "smape in percent. The best value of each column is marked."
)


@dataclass(frozen=True)
class Evaluated:
    """The result of a rolling evaluation.

    Attributes:
        scores: scores by member and horizon (`schemas.scores.MemberScore`).
        coverage_by_series: share of actuals in the 90 % interval, by member and horizon, then by series. Only
            errors at the horizon itself count.
        by_step: frame ``model, horizon, mae, coverage`` with a row for every horizon, ``mae`` as a MASE.
        figures: captions of pictures, each with the function that draws the picture.
        train_s, replay_s: seconds of training, and of replaying and scoring.
        series, rows: number of series and of windows in the history.
        split: the training rows and the test rows.
        model_version: version of the network.
        run_id: MLflow run.
        notices: lines that the user should see.
    """

    scores: pl.DataFrame
    coverage_by_series: Mapping[tuple[str, int], Mapping[str, float]]
    by_step: pl.DataFrame
    figures: Sequence[Picture] = field(repr=False)
    train_s: float
    replay_s: float
    series: int
    rows: int
    split: Split
    model_version: str
    run_id: str
    notices: tuple[str, ...]

    def lines(self) -> list[dict[str, Any]]:
        """Return the scores as one JSON object for each member and horizon; ``--json`` prints them first."""
        return [
            {**row, "coverage_by_series": self.coverage_by_series[row["member"], row["horizon"]]}
            for row in self.scores.to_dicts()
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object with the scores by member and horizon; ``--json`` prints it last."""
        members: dict[str, dict[int, dict[str, Any]]] = {}
        for line in self.lines():
            member, horizon = line.pop("member"), line.pop("horizon")
            members.setdefault(member, {})[horizon] = line
        return {
            "train_s": self.train_s,
            "replay_s": self.replay_s,
            "series": self.series,
            "rows": self.rows,
            "train_rows": self.split.train_rows,
            "test_rows": [self.split.first, self.split.stop],
            "model_version": self.model_version,
            "run_id": self.run_id,
            "members": members,
        }


def write_rolling(evaluated: Evaluated, path: Path, facts: Mapping[str, str] | None = None) -> Path:
    """Write an HTML report of a rolling evaluation: a table of scores for each horizon, then charts.

    Args:
        evaluated: the result to report.
        path: path of the HTML file.
        facts: additional names and values for the top of the report.

    Returns:
        ``path``.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    split = evaluated.split
    horizons = evaluated.scores["horizon"].unique().sort().to_list()
    last = horizons[-1]
    return write_report(
        path,
        title="Statecast: rolling evaluation",
        facts={
            "history": f"{evaluated.series:,} series, {evaluated.rows:,} windows",
            "trained on": f"the first {split.train_rows:,} windows",
            "tested on": f"windows {split.first:,} to {split.stop:,}",
            "took": f"{evaluated.train_s:,.0f} s to train, {evaluated.replay_s:,.0f} s to replay and score",
            "model": evaluated.model_version,
            **(facts or {}),
            "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        },
        tables=[
            member_table(evaluated.scores, horizon, _NOTE if horizon == last else "") for horizon in horizons
        ],
        figures=evaluated.figures,
        notes=[f"MLflow has the same scores and pictures: run {evaluated.run_id} (statecast ui shows it)."],
    )


def member_table(scores: pl.DataFrame, horizon: int, note: str = "") -> ReportTable:
    """Return the table of scores at one horizon, with a row for each member.

    The best scores of each measure except ``width_90`` are marked.
    """
    part = scores.filter(pl.col("horizon") == horizon)
    best = set()
    for k, measure in enumerate(MEMBER_MEASURES):
        numbers = part[measure].to_list()
        if measure == "coverage_90":
            numbers = [None if x is None else abs(x - COVERAGE) for x in numbers]
        if measure != "width_90":  # do not mark a width as best: a narrow interval may cover too few actuals
            best |= {(row, k) for row in least(numbers)}
    rows = [(row["member"], [row[measure] for measure in MEMBER_MEASURES]) for row in part.to_dicts()]
    return ReportTable(f"Horizon {horizon}", ["member", *MEMBER_MEASURES], rows, frozenset(best), note)


def scored(
    tallies: Mapping[str, Tally], horizons: Sequence[int], unit: Floats, ids: Sequence[str]
) -> tuple[pl.DataFrame, dict[tuple[str, int], dict[str, float]]]:
    """Return the scores of every member at ``horizons``, and the coverage by series (see `Evaluated`).

    Args:
        tallies: sums of errors by member.
        horizons: horizons to score.
        unit: ``[S]``, the error of seasonal naive on the training rows of each series.
        ids: the series ids.

    Raises:
        DataError: no forecast of the test rows has an actual.
    """
    rows, by_series = [], {}
    for member, sums in tallies.items():
        for horizon in horizons:
            found = sums.measures(horizon, unit)
            if not found.count:
                raise DataError(
                    f"no forecast of the test rows for horizons 1 to {horizon} has an actual, so there is no "
                    "score; give other test rows"
                )
            numbers = {name: _finite(getattr(found, name)) for name in MEMBER_MEASURES}
            rows.append({"member": member, "horizon": horizon, "count": found.count, **numbers})
            covered = zip(ids, found.coverage_by_series.tolist(), strict=True)
            by_series[member, horizon] = {name: share for name, share in covered if not math.isnan(share)}
    return check_member_scores(pl.DataFrame(rows, schema=MEMBER_SCHEMA)), by_series


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def errors_by_horizon(tallies: Mapping[str, Tally], unit: Floats) -> pl.DataFrame:
    """Return the frame `Evaluated.by_step`: the MASE and coverage of every member at every horizon."""
    parts = []
    for member, sums in tallies.items():
        errors = sums.mase_by_step(unit)
        steps = pl.int_range(1, len(errors) + 1, dtype=pl.Int32, eager=True)
        columns = {"horizon": steps, "mae": errors, "coverage": sums.coverage_by_step()}
        part = pl.DataFrame(columns).fill_nan(None)
        parts.append(part.select(pl.lit(member).alias("model"), "horizon", "mae", "coverage"))
    return pl.concat(parts)


def score_figures(tallies: Mapping[str, Tally], by_step: pl.DataFrame, fans: FanSample) -> list[Picture]:
    """Return plots of scores and of some forecasts, each with a caption.

    The plots show the errors and the coverage of all members, and the calibration and some forecasts of the
    first member.
    """
    first, sums = next(iter(tallies.items()))
    figures: list[Picture] = [
        ("Mean absolute error by horizon, for each member.", partial(plots.error_by_horizon_figure, by_step))
    ]
    covered = by_step.drop_nulls("coverage")
    if len(covered):
        draw = partial(plots.coverage_by_horizon_figure, covered, COVERAGE)
        figures.append(("Share of actuals inside the 90 % interval, by horizon.", draw))
    draw = partial(plots.calibration_figure, sums.levels, sums.calibration().tolist(), first)
    figures.append((f"Calibration of {first}: share of actuals at or below each quantile.", draw))
    for series_id, frame in fans.frames().items():
        caption = f"{series_id}: forecasts of {first}, and actuals."
        figures.append((caption, partial(fan_plot.fan_figure, frame, series_id)))
    return figures


def log_evaluation(run: Run, evaluated: Evaluated) -> None:
    """Log the scores of the first member as metrics, the scores of all members as tables, and the plots.

    The metrics are the scores at the largest horizon. The curves of the baselines by horizon are logged, too.
    """
    first, last = evaluated.by_step["model"][0], evaluated.scores["horizon"].max()
    names = {"seasonal_naive": SEASONAL_NAIVE}
    steps = evaluated.by_step.with_columns(pl.col("model").replace(names))
    comparison = BaselineComparison(first, {}, {}, steps)
    curves = {
        horizon: {f"test/{name}": value for name, value in points.items()}
        for horizon, points in comparison.curves().items()
    }
    run.log_curves(curves)
    own = evaluated.scores.filter((pl.col("member") == first) & (pl.col("horizon") == last)).row(
        0, named=True
    )
    final = {name: own[name] for name in ("wql", "coverage_90", "width_90") if own[name] is not None}
    numbers = {f"test/{name}": value for name, value in (comparison.errors_and_skill() | final).items()}
    run.log_metrics({**numbers, "time/train_s": evaluated.train_s, "time/replay_s": evaluated.replay_s})
    run.log_frame(evaluated.scores, "scores.json")
    run.log_frame(evaluated.by_step, "scores_by_step.json")
    run.log_frame(_coverage_frame(evaluated), "coverage_by_series.json")
    for number, (_, draw) in enumerate(evaluated.figures):
        run.log_figure(draw, f"plots/{number + 1:02}.png")


def _coverage_frame(evaluated: Evaluated) -> pl.DataFrame:
    rows = [
        {"member": member, "horizon": horizon, "series_id": name, "coverage_90": share}
        for (member, horizon), shares in evaluated.coverage_by_series.items()
        for name, share in shares.items()
    ]
    schema = {"member": pl.String, "horizon": pl.Int32, "series_id": pl.String, "coverage_90": pl.Float64}
    return pl.DataFrame(rows, schema=schema)
