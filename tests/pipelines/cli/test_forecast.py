"""Tests of ``statecast forecast``, which forecasts the series of a file.

It uses a given model, or trains one on the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from forecaster.forecast_frame import forecast_with, select
from forecaster.time.aggregation import aggregate
from pipelines.cli.app import run
from tests.fleets import forecaster

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = pl.DataFrame(
    {
        "series_id": ["a"] * 60 + ["b"] * 50,
        "timestamp": [BEGIN + timedelta(hours=k) for k in (*range(60), *range(50))],
        "value": [float(k % 12) for k in (*range(60), *range(50))],
    }
)
READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": pl.read_csv,
    ".parquet": pl.read_parquet,
    ".jsonl": pl.read_ndjson,
}
SMALL = ("network.hidden=4", "network.layers=1", "network.ring=8", "network.lags=[1, 2]", "training.epochs=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forecast")
    ROWS.write_csv(folder / "rows.csv")
    forecaster().save(folder / "model")
    return folder


def forecast(folder: Path, *more: object) -> int:
    return run(["forecast", str(folder / "rows.csv"), *map(str, more)])


def trained(folder: Path, *more: object) -> int:
    return forecast(folder, *(word for setting in SMALL for word in ("-s", setting)), *more)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_every_output_format_holds_the_forecasts_of_the_model(
    folder: Path, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"ahead{suffix}"
    assert forecast(folder, "--model", folder / "model", "-o", file) == 0
    read = READERS[suffix](file)
    if suffix != ".parquet":
        read = read.with_columns(pl.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC"))
    expected = forecast_with(forecaster(), aggregate(ROWS, forecaster().window_config).windows).forecasts
    expected = select(expected, 3, (0.05, 0.95)).with_columns(pl.col("timestamp").dt.cast_time_unit("us"))
    assert read.columns == ["series_id", "timestamp", "horizon", "forecast", "q05", "q95"]
    same = read.with_columns(pl.col("timestamp").dt.cast_time_unit("us"), pl.col("horizon").cast(pl.Int16))
    assert same.drop("forecast", "q05", "q95").equals(expected.drop("forecast", "q05", "q95"))
    difference = same.select("forecast", "q05", "q95") - expected.select("forecast", "q05", "q95")
    assert difference.select(pl.all().abs().max()).row(0) == pytest.approx((0, 0, 0), abs=1e-9)


def test_the_forecast_command_infers_the_frequency_and_prints_the_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(folder, "--horizon", 2, "--json") == 0
    captured = capsys.readouterr()
    assert "frequency 1h: 100% of the rows follow the row before after 1h" in captured.err
    found = json.loads(captured.out)
    assert (found["freq"], found["rows_in"], found["series"]) == ("1h", 110, 2)
    assert [row["horizon"] for row in found["forecasts"]] == [1, 2, 1, 2]
    assert set(found["backtest_mase"]) == {"lstm", "persistence", "seasonal naive"}


def test_forecasts_are_printed_as_csv_and_other_lines_on_stderr(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(folder, "--freq", "2h", "--quantiles", "0.1,0.9", "--horizon", 1) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "series_id,timestamp,horizon,forecast,q10,q90"
    assert [line.rsplit(",", 3)[0] for line in lines[1:]] == [
        "a,2024-01-03T12:00:00Z,1",
        "b,2024-01-03T02:00:00Z,1",
    ]
    assert "110 rows in = 110 used + 0 quarantined + 0 duplicate" in captured.err
    assert "backtest on the last tenth of the windows: MASE" in captured.err
    assert "frequency" not in captured.err


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["-o", "ahead.xlsx"], "--output ahead.xlsx: the name must end with .csv, .parquet or .jsonl"),
        (["--quantiles", "0.1,2"], "--quantiles 0.1,2: write levels between 0 and 1"),
        (["--model", "MODEL", "--freq", "1h"], "--freq has no effect with --model"),
        (["--model", "MODEL", "--horizon", "9"], "the model forecasts 3 windows ahead, and 9 are wanted"),
        (["--model", "MODEL", "--quantiles", "0.2"], "the model has no quantile 0.2"),
    ],
)
def test_a_wrong_option_of_forecast_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], line: str
) -> None:
    given = [str(folder / "model") if word == "MODEL" else word for word in options]
    assert forecast(folder, *given) == 2
    err = capsys.readouterr().err.splitlines()
    assert line in err[-1]
