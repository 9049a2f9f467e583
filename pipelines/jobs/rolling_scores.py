"""What a rolling evaluation found: as JSON, as tables and pictures, as a report and in an MLflow run."""

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
from forecaster.registry.registry import Run
from forecaster.reports import plots
from forecaster.reports.html import Picture, Table, least, write_report
from schemas.errors import DataError
from schemas.scores import MEMBER_MEASURES, MEMBER_SCHEMA, check_member_scores

_NOTE = (
    "Over the steps 1 to this horizon, each the mean over series of each series' mean; coverage_90 and "
    "width_90 are those of the 90 % interval at this very step. mse, mae and width_90 are in the unit of the "
    "values, mase and msis in seasonal naive's own error on the training rows, smape in percent. The best of "
    "each column is marked."
)


@dataclass(frozen=True)
class Evaluated:
    """A rolling evaluation that has ended.

    Attributes:
        scores: by member and horizon (`schemas.scores.MemberScore`).
        coverage_by_series: share in the 90 % interval at the horizon itself, by member, horizon and series.
        by_step: ``model, horizon, mae, coverage`` at every step, ``mae`` in the unit of MASE.
        figures: captions and what draws them.
        train_s, replay_s: seconds that training took, and replaying with judging.
        series, rows: size of the history, in windows.
        split: what was learned from and judged.
        model_version: of the network.
        run_id: MLflow run.
        notices: lines that people should see.
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
        """What ``--json`` prints of each member and horizon."""
        return [
            {**row, "coverage_by_series": self.coverage_by_series[row["member"], row["horizon"]]}
            for row in self.scores.to_dicts()
        ]

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints last."""
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
    """An HTML report with a table a horizon and the pictures.

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
            "learned from": f"the first {split.train_rows:,} windows",
            "judged on": f"windows {split.first:,} to {split.stop:,}",
            "took": f"{evaluated.train_s:,.0f} s to train, {evaluated.replay_s:,.0f} s to replay and judge",
            "model": evaluated.model_version,
            **(facts or {}),
            "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        },
        tables=[
            member_table(evaluated.scores, horizon, _NOTE if horizon == last else "") for horizon in horizons
        ],
        figures=evaluated.figures,
        notes=[f"Everything is in MLflow, too: run {evaluated.run_id} (statecast ui shows it)."],
    )


def member_table(scores: pl.DataFrame, horizon: int, note: str = "") -> Table:
    """A row a member and a column a measure at one horizon, the best of each column marked."""
    part = scores.filter(pl.col("horizon") == horizon)
    best = set()
    for k, measure in enumerate(MEMBER_MEASURES):
        numbers = part[measure].to_list()
        if measure == "coverage_90":
            numbers = [None if x is None else abs(x - COVERAGE) for x in numbers]
        if measure != "width_90":  # narrow is good in an interval that covers what it should, else not
            best |= {(row, k) for row in least(numbers)}
    rows = [(row["member"], [row[measure] for measure in MEMBER_MEASURES]) for row in part.to_dicts()]
    return Table(f"Horizon {horizon}", ["member", *MEMBER_MEASURES], rows, frozenset(best), note)


def scored(
    tallies: Mapping[str, Tally], horizons: Sequence[int], unit: Floats, ids: Sequence[str]
) -> tuple[pl.DataFrame, dict[tuple[str, int], dict[str, float]]]:
    """Scores and coverage by series of every member at some horizons (see `Evaluated`).

    Raises:
        DataError: nothing could be judged.
    """
    rows, by_series = [], {}
    for member, sums in tallies.items():
        for horizon in horizons:
            found = sums.measures(horizon, unit)
            if not found.count:
                raise DataError(
                    "none of the forecasts met an observation in the test rows: nothing can be judged; give "
                    "other test rows"
                )
            numbers = {name: _finite(getattr(found, name)) for name in MEMBER_MEASURES}
            rows.append({"member": member, "horizon": horizon, "count": found.count, **numbers})
            covered = zip(ids, found.coverage_by_series.tolist(), strict=True)
            by_series[member, horizon] = {name: share for name, share in covered if not math.isnan(share)}
    return check_member_scores(pl.DataFrame(rows, schema=MEMBER_SCHEMA)), by_series


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def by_step_of(tallies: Mapping[str, Tally], unit: Floats) -> pl.DataFrame:
    """Error and coverage of every member at every step (see `Evaluated`)."""
    parts = []
    for member, sums in tallies.items():
        errors = sums.mase_by_step(unit)
        steps = pl.int_range(1, len(errors) + 1, dtype=pl.Int32, eager=True)
        columns = {"horizon": steps, "mae": errors, "coverage": sums.coverage_by_step()}
        part = pl.DataFrame(columns).fill_nan(None)
        parts.append(part.select(pl.lit(member).alias("model"), "horizon", "mae", "coverage"))
    return pl.concat(parts)


def figures_of(tallies: Mapping[str, Tally], by_step: pl.DataFrame, fans: FanSample) -> list[Picture]:
    """Pictures of all members' errors, and of the first one's quantiles and forecasts, with captions."""
    first, sums = next(iter(tallies.items()))
    figures: list[Picture] = [
        ("Mean absolute error at each step, by member.", partial(plots.error_by_horizon_figure, by_step))
    ]
    covered = by_step.drop_nulls("coverage")
    if len(covered):
        draw = partial(plots.coverage_by_horizon_figure, covered, COVERAGE)
        figures.append(("How much of what came lay in the 90 % interval, at each step.", draw))
    draw = partial(plots.calibration_figure, sums.levels, sums.calibration().tolist(), first)
    figures.append((f"Calibration of {first}: how often what came lay at or under each quantile.", draw))
    for series_id, frame in fans.frames().items():
        caption = f"{series_id}: what {first} forecast, and what came."
        figures.append((caption, partial(plots.fan_figure, frame, series_id)))
    return figures


def log_into(run: Run, evaluated: Evaluated) -> None:
    """Scores as metrics and tables, and the pictures, into the run."""
    for horizon in evaluated.by_step["horizon"].unique().sort():
        step = evaluated.by_step.filter(pl.col("horizon") == horizon)
        points = {
            f"{row['model']}/{name}_by_step": row[column]
            for row in step.to_dicts()
            for name, column in (("mase", "mae"), ("coverage_90", "coverage"))
            if row[column] is not None
        }
        run.log_points(points, horizon)
    final = {
        f"{row['member']}/{measure}_{row['horizon']}": row[measure]
        for row in evaluated.scores.to_dicts()
        for measure in MEMBER_MEASURES
        if row[measure] is not None
    }
    run.log_metrics({**final, "train_s": evaluated.train_s, "replay_s": evaluated.replay_s})
    run.log_frame(evaluated.scores, "scores.json")
    run.log_frame(evaluated.by_step, "scores_by_step.json")
    run.log_frame(_covered(evaluated), "coverage_by_series.json")
    for number, (_, draw) in enumerate(evaluated.figures):
        run.log_figure(draw, f"plots/{number + 1:02}.png")


def _covered(evaluated: Evaluated) -> pl.DataFrame:
    rows = [
        {"member": member, "horizon": horizon, "series_id": name, "coverage_90": share}
        for (member, horizon), shares in evaluated.coverage_by_series.items()
        for name, share in shares.items()
    ]
    schema = {"member": pl.String, "horizon": pl.Int32, "series_id": pl.String, "coverage_90": pl.Float64}
    return pl.DataFrame(rows, schema=schema)
