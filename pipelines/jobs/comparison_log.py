"""Log the comparison of two models in an MLflow run: numbers, curves by horizon, tables and pictures."""

from __future__ import annotations

import re
from functools import partial

import polars as pl

from forecaster.evaluation.bootstrap import Improvement
from forecaster.evaluation.paired_comparison import PairedComparison
from forecaster.registry.registry import Run
from forecaster.reports import plots
from forecaster.reports.improvement_plot import improvement_figure

_MEASURES = ("skill", "mase", "wql", "coverage", "width")


def log_comparison(run: Run, found: PairedComparison) -> None:
    """Log the comparison of two models in an MLflow run: numbers, curves, tables and pictures."""
    final = {"improvement": found.overall.share}
    final |= {"improvement_low": found.overall.low, "improvement_high": found.overall.high}
    final |= {f"improvement_{name}": improvement.share for name, improvement in found.by_class.items()}
    for name, cost in zip(("champion", "challenger"), found.costs, strict=True):
        final |= {f"{measure}_{name}": value for measure, value in vars(cost).items()}
    run.log_metrics({f"compare/{_metric_name(name)}": value for name, value in final.items()})
    curves: dict[int, dict[str, float]] = {}
    for row in found.scores.to_dicts():
        model = row["model"].replace(" ", "_")
        points = {
            f"compare/{name}_by_horizon_{model}": row[name] for name in _MEASURES if row[name] is not None
        }
        curves.setdefault(row["horizon"], {}).update(points)
    run.log_curves(curves)
    run.log_frame(found.scores, "compare/scores.json")
    run.log_frame(improvements_frame(found), "compare/improvements.json")
    drawn = found.scores.rename({"mase": "mae"}).drop_nulls("mae")
    run.log_figure(partial(plots.error_by_horizon_figure, drawn), "plots/error_by_horizon.png")
    draw = partial(improvement_figure, labelled_improvements(found), found.confidence)
    run.log_figure(draw, "plots/improvement.png")


def _metric_name(text: str) -> str:
    """Return ``text`` as a metric's name: each character that MLflow does not accept becomes ``_``."""
    return re.sub(r"[^\w./ -]", "_", text)


def labelled_improvements(found: PairedComparison) -> dict[str, Improvement]:
    """Return all improvements of a comparison by label: overall, by class, and by horizon."""
    series = found.series_by_class
    return {
        "all": found.overall,
        **{f"{name} ({series[name]:,} series)": one for name, one in found.by_class.items()},
        **{f"horizon {horizon}": one for horizon, one in found.by_horizon.items()},
    }


def improvements_frame(found: PairedComparison) -> pl.DataFrame:
    """Return one row for each improvement of a comparison: ``what, improvement, low, high``."""
    rows = [(label, *one) for label, one in labelled_improvements(found).items()]
    return pl.DataFrame(rows, ["what", "improvement", "low", "high"], orient="row")
