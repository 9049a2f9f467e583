"""Tests that the dashboard shows the forecasts and the scores of a shadow beside the version in use."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl

from pipelines.dashboard.output_view import OutputView
from pipelines.sinks.files import SHADOW, read_forecasts
from pipelines.state import state_table
from tests.pipelines.dashboard.conftest import NEW, OLD


def test_the_chart_of_a_series_has_the_forecasts_of_the_shadow(shadowed: Path) -> None:
    (series_id, *_) = read_forecasts(shadowed, SHADOW)["series_id"]
    found = OutputView(shadowed).series(series_id)
    assert [fan["time"] for fan in found["shadow_fans"]] == [fan["time"] for fan in found["fans"]] != []
    for part, name, version in (
        ("forecasts", "fans", OLD.version),
        (SHADOW, "shadow_fans", NEW.version),
    ):
        newest = read_forecasts(shadowed, part).filter(pl.col("series_id") == series_id).row(-1, named=True)
        fan = found[name][0]
        assert fan["model_version"] == version
        assert fan["quantiles"]["q50"] == [step["q50"] for step in newest["forecast"]]


def test_score_table_lists_shadow_after_version_in_use(shadowed: Path) -> None:
    shown = OutputView(shadowed).fleet()["versions"]
    scores = state_table.read(shadowed / "state", series=False).counts.scores
    expected = [
        (version, role, horizon, sums.mase, sums.coverage)
        for version, role in ((OLD.version, "in use"), (NEW.version, "shadow"))
        for horizon, sums in sorted(scores[version].items())
    ]
    fields = ("version", "role", "horizon", "mase", "coverage")
    assert [tuple(one[name] for name in fields) for one in shown] == expected
    assert expected[0][3] != expected[-1][3]


def test_a_shadow_without_forecast_files_is_listed_as_shadow(shadowed: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(shadowed, tmp_path / "out"))
    shutil.rmtree(output / SHADOW)
    view = OutputView(output)
    assert {one["role"] for one in view.fleet()["versions"] if one["version"] == NEW.version} == {"shadow"}
    assert view.series("a")["shadow_fans"] == []
