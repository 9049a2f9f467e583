"""Compare a model with the baselines: skill, measures of the quantiles, scores by horizon and by series.

Frames of errors have the columns of `forecaster.evaluation.scores.errors`, frames of scores the columns of
``schemas.scores``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from forecaster.evaluation.scores import Scale, quantile_columns, unit_of

PERSISTENCE, SEASONAL_NAIVE = "persistence", "seasonal naive"
SKILL_HORIZONS = (1, 3, 6, 12, 24)
"""The horizons of the skill: fixed, so that models with different horizons can be compared."""
SHOWN_HORIZONS = (1, 24)
"""The horizons that have a separate metric for their MASE."""


@dataclass(frozen=True)
class BaselineComparison:
    """The errors and scores of a model and of baselines, for the same series, issue times and horizons.

    Attributes:
        label: label of the model.
        errors: errors of the model and of each baseline that has any, by label.
        scale: scale of each series, by which its errors are divided.
        scores: scores of the model and the baselines, and possibly of other models; ``mae`` is a MASE.
    """

    label: str
    errors: Mapping[str, pl.DataFrame]
    scale: Scale
    scores: pl.DataFrame

    def skill(self, baseline: str = PERSISTENCE) -> float | None:
        """Return the skill of the model against ``baseline``; None if the baseline has no scores."""
        return skill(self.scores, self.label, baseline)

    def metrics(self) -> dict[str, float]:
        """Return the values by which models are compared, by metric name.

        They are those of `errors_and_skill`, and ``wql``, ``coverage_90`` and ``width_90`` of
        `distribution_measures`. A measure that does not apply is absent.
        """
        return self.errors_and_skill() | distribution_measures(self.errors[self.label], self.scale)

    def errors_and_skill(self) -> dict[str, float]:
        """Return the MASE at horizons 1 and 24, and the skill against both baselines, by metric name."""
        own = {row["horizon"]: row["mae"] for row in self._scores_of(self.label)}
        found = {f"mase_h{h}": own[h] for h in SHOWN_HORIZONS if own.get(h) is not None}
        for baseline in (PERSISTENCE, SEASONAL_NAIVE):
            if (gain := self.skill(baseline)) is not None:
                found[f"skill_vs_{_word(baseline)}"] = gain
        return found

    def curves(self) -> dict[int, dict[str, float]]:
        """Return the MASE of the model and of each baseline, and the model's coverage, by horizon."""
        found: dict[int, dict[str, float]] = {}
        for row in self._scores_of(self.label):
            points = found.setdefault(row["horizon"], {})
            points["mase_by_horizon"] = row["mae"]
            if row["coverage"] is not None:
                points["coverage_by_horizon"] = row["coverage"]
        for baseline in (PERSISTENCE, SEASONAL_NAIVE):
            for row in self._scores_of(baseline):
                found.setdefault(row["horizon"], {})[f"mase_by_horizon_{_word(baseline)}"] = row["mae"]
        return found

    def by_series(self, rows: Mapping[str, int]) -> pl.DataFrame:
        """Return one row for each series, sorted by MASE, highest first; see `series_table`."""
        return series_table(self.errors[self.label], self.errors.get(SEASONAL_NAIVE), self.scale, rows)

    def _scores_of(self, label: str) -> list[dict[str, Any]]:
        return self.scores.filter(pl.col("model") == label).to_dicts()


def _word(label: str) -> str:
    return label.replace(" ", "_")


def skill(scores: pl.DataFrame, model: str, baseline: str) -> float | None:
    """Return 1 minus the ratio of a model's MASE to a baseline's, averaged over `SKILL_HORIZONS`.

    The skill at a horizon that the model does not forecast is 0, because the baseline would have to be used
    there. It is also 0 at a horizon at which the baseline makes no error or has no score.

    Args:
        scores: scores of both (``schemas.scores``).
        model: label of the model.
        baseline: label of the baseline.

    Returns:
        The skill, at most 1; None if the baseline has no scores.
    """
    own, other = (
        {row["horizon"]: row["mae"] for row in scores.filter(pl.col("model") == label).to_dicts()}
        for label in (model, baseline)
    )
    if not other:
        return None
    gains = [
        1 - own[h] / other[h] if own.get(h) is not None and other.get(h) else 0.0 for h in SKILL_HORIZONS
    ]
    return sum(gains) / len(SKILL_HORIZONS)


def interval_name(errors: pl.DataFrame) -> str | None:
    """Return the widest interval's nominal coverage in percent, such as ``90``; None for point forecasts."""
    levels = [float(name[1:]) for name in quantile_columns(errors)]
    return f"{levels[-1] - levels[0]:g}" if len(levels) > 1 else None


def distribution_measures(errors: pl.DataFrame, scale: Scale) -> dict[str, float]:
    """Return the weighted quantile loss, and the widest interval's coverage and width, over all horizons.

    Returns:
        ``wql``: weighted quantile loss, twice the pinball loss over the sum of ``|y|``, averaged over levels
        (absent if all actuals are 0). With an interval of 90 %, ``coverage_90``, the share of actuals inside
        it, and ``width_90``, its width divided by the scale of the series; both averaged over series.
    """
    quantiles = quantile_columns(errors)
    found: dict[str, float] = {}
    size = float(errors["observed"].abs().sum())
    if size > 0:
        losses = [errors.select(_pinball(name, float(name[1:]) / 100).sum()).item() for name in quantiles]
        found["wql"] = 2 * sum(losses) / len(losses) / size
    if (name := interval_name(errors)) is not None:
        low, high = pl.col(quantiles[0]), pl.col(quantiles[-1])
        by_series = errors.group_by("series_id").agg(
            inside=pl.col("observed").is_between(low, high).mean(),
            width=((high - low) / unit_of(scale)).mean(),
        )
        means = by_series.select(pl.col("inside").mean(), pl.col("width").mean()).row(0)
        found |= {f"coverage_{name}": float(means[0]), f"width_{name}": float(means[1])}
    return found


def _pinball(name: str, level: float) -> pl.Expr:
    miss = pl.col("observed") - pl.col(name)
    return pl.max_horizontal(miss * level, miss * (level - 1))


def series_table(
    own: pl.DataFrame, naive: pl.DataFrame | None, scale: Scale, rows: Mapping[str, int]
) -> pl.DataFrame:
    """Return one row for each series, sorted by MASE, highest first.

    Args:
        own: errors of the model.
        naive: errors of seasonal naive; None if there are no such errors.
        scale: scale of each series, by which its errors are divided.
        rows: number of observed windows of each series.

    Returns:
        ``series_id, rows, forecasts, mase``, ``mase_h1`` and ``mase_h24`` (null where the model does not
        forecast that horizon), ``coverage_90`` (named by the interval), ``mase_seasonal_naive`` and
        ``skill_vs_seasonal_naive``.
    """
    quantiles, name = quantile_columns(own), interval_name(own)
    miss = (pl.col("observed") - pl.col("q50")).abs() / unit_of(scale)
    at = {f"mase_h{h}": miss.filter(pl.col("horizon") == h).mean() for h in SHOWN_HORIZONS}
    inside = pl.col("observed").is_between(pl.col(quantiles[0]), pl.col(quantiles[-1])).mean()
    interval = {} if name is None else {f"coverage_{name}": inside}
    table = own.group_by("series_id").agg(forecasts=pl.len(), mase=miss.mean(), **at, **interval)
    table = table.with_columns(
        rows=pl.col("series_id").replace_strict(dict(rows), default=None, return_dtype=pl.Int64)
    )
    if naive is not None and len(naive):
        theirs = naive.group_by("series_id").agg(mase_seasonal_naive=miss.mean())
        ratio = pl.col("mase") / pl.col("mase_seasonal_naive")
        table = table.join(theirs, on="series_id", how="left").with_columns(
            skill_vs_seasonal_naive=pl.when(pl.col("mase_seasonal_naive") > 0).then(1 - ratio)
        )
    return table.select("series_id", "rows", pl.exclude("series_id", "rows")).sort(
        "mase", "series_id", descending=[True, False]
    )
