"""Tests of the metrics of a model in MLflow, which equal the measures of an evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecaster.evaluation.metrics import Tally
from forecaster.registry.model_metrics import evaluate_forecasts, evaluation_table
from schemas.errors import DataError

SCALE = {"a": 1.0, "b": 4.0}
LEVELS = (0.05, 0.5, 0.95)


@pytest.fixture(autouse=True)
def _store(tmp_path: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.create_experiment("scored", (tmp_path / "artifacts").as_uri())
    mlflow.set_experiment("scored")


def errors(a: int = 30, b: int = 10) -> pl.DataFrame:
    """Return forecasts one window ahead with their actuals, for the series ``a`` and ``b``."""
    rng = np.random.default_rng(2)
    middle = rng.normal(size=a + b)
    return pl.DataFrame(
        {
            "series_id": ["a"] * a + ["b"] * b,
            "issued_at": 0,
            "horizon": 1,
            "observed": rng.normal(size=a + b),
            "q5": middle - 1.0,
            "q50": middle,
            "q95": middle + 1.5,
        }
    )


def test_evaluate_forecasts_logs_the_measures_that_tally_computes() -> None:
    import mlflow

    frame = errors(20, 20)
    tally = Tally(LEVELS, 2, 1)
    actuals = frame["observed"].to_numpy().reshape(2, 20).T[..., None]
    quantiles = frame.select("q5", "q50", "q95").to_numpy().T.reshape(3, 2, 20).swapaxes(1, 2)[..., None]
    tally.add(actuals, quantiles, np.ones(actuals.shape, bool))
    expected = tally.measures(1, np.array([1.0, 4.0]))
    with mlflow.start_run() as run:
        found = evaluate_forecasts(frame, SCALE, "production")
    assert found == pytest.approx(
        {
            "production/mase": expected.mase,
            "production/wql": expected.wql,
            "production/coverage_90": expected.coverage_90,
        }
    )
    assert mlflow.get_run(run.info.run_id).data.metrics == pytest.approx(found)


def test_mase_and_coverage_weigh_all_series_equally() -> None:
    few, many = evaluate_forecasts(errors(), SCALE), errors()
    ten_times = pl.concat([many.filter(series_id="a")] * 10 + [many.filter(series_id="b")])
    more = evaluate_forecasts(ten_times, SCALE)
    assert (more["forecast/mase"], more["forecast/coverage_90"]) == pytest.approx(
        (few["forecast/mase"], few["forecast/coverage_90"])
    )


def test_point_forecasts_have_no_coverage() -> None:
    assert sorted(evaluate_forecasts(errors().drop("q5", "q95"), SCALE)) == ["forecast/mase", "forecast/wql"]


def test_evaluation_table_refuses_empty_errors_or_a_missing_scale() -> None:
    with pytest.raises(DataError, match="no forecast has an actual"):
        evaluation_table(errors().clear(), SCALE)
    with pytest.raises(DataError, match="series 'b' has no scale"):
        evaluation_table(errors(), {"a": 1.0})
