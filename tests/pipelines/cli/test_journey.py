"""Tests of the usual sequence of commands, from init and train to evaluate and promote, and of doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.sinks.files import read_forecasts, read_quarantine
from pipelines.state.state_table import read
from tests.fleets import HOUR
from tests.outputs import assert_flat_as_nested
from tests.pipelines.cli.conftest import statecast

STREAMED = ("2013-01-10", "2013-01-13")  # the test streams these three days of the data


@pytest.mark.prism
def test_backfill_stream_evaluate_and_promote_succeed_after_training(
    tmp_path: Path, series: Path, trained: tuple[str, dict[str, Any]], own_store: Path
) -> None:
    uri, version = f"sqlite:///{own_store}", trained[1]["version"]["model_version"]
    store = ("--tracking-uri", uri, "--model", "tiny", "--json")

    filled = statecast(
        "backfill", series, *store, "-o", "a", "--end", STREAMED[0], "--flat", "csv", cwd=tmp_path
    ).json_object
    assert (filled["rows_in"], filled["used"], filled["missing"]) == (3 * 216, 3 * 216, 0)
    assert filled["outside"] == 3 * (400 - 216)

    bounds = ("--start", STREAMED[0], "--end", STREAMED[1])
    from_backfill = ("--state", "a/state", "-o", "b", "--format", "jsonl", "--flat", "parquet")
    streamed = statecast("stream", series, *store, *bounds, *from_backfill, cwd=tmp_path).json_object
    assert (streamed["used"], streamed["missing"], streamed["stopped"]) == (3 * 72, 0, False)
    issued = read_forecasts(tmp_path / "b")
    assert issued["model_version"].unique().to_list() == [version]
    assert len(issued) == 3 * 72
    for output in ("a", "b"):
        assert_flat_as_nested(tmp_path / output, HOUR)

    printed = statecast(
        "evaluate", series, "-f", "a", "-f", "b", "--report", "r/report.html", "--json", cwd=tmp_path
    ).json_object
    assert {row["model"] for row in printed["scores"]} == {"lstm", "persistence", "seasonal naive"}
    assert (tmp_path / "r" / "report.html").read_text().count("<svg") >= 3

    moved = statecast(
        "promote", "tiny/1", "--alias", "next", "--tracking-uri", uri, "--json", cwd=tmp_path
    ).json_object
    assert moved == {"alias": "next", "version": "tiny/1", "model_version": version, "previous": None}


def test_training_reports_its_version_rows_and_backtest(
    trained: tuple[str, dict[str, Any]],
) -> None:
    result = trained[1]
    assert result["version"]["name"] == "tiny"
    assert result["version"]["number"] == 1
    assert result["rows_in"] == result["used"] == 1200
    assert (result["series"], result["windows"]) == (3, 400)
    assert len(result["epochs"]) == 1
    assert {row["model"] for row in result["backtest"]} == {"lstm", "persistence", "seasonal naive"}


def test_invalid_rows_are_quarantined_with_reasons_and_counted(tmp_path: Path, model: Path) -> None:
    rows = [
        "a,2013-01-01 00:10,1",
        "a,2013-01-01 01:10,NaN",
        "b,2013-01-01 02:10,inf",
        "a,2013-01-01 02:10,x",
    ]
    rows += ["a,yesterday,1", ",2013-01-01 02:20,3", "a,2013-01-01 03:10,4", "a,2013-01-01 03:10,4", "a,b"]
    (tmp_path / "rows.csv").write_text("\n".join(["unique_id,ds,y", *rows]) + "\n")
    refused = statecast("backfill", "rows.csv", "-m", model, cwd=tmp_path)
    assert refused.code == 3
    assert "6 of 9 rows (67%) are quarantined" in refused.err
    share = ("--set", "data.max_quarantined=1")
    result = statecast("backfill", "rows.csv", "-m", model, *share, cwd=tmp_path)
    assert result.code == 0
    assert "9 rows in = 2 used + 6 quarantined + 1 duplicate + 0 too late" in result.out
    assert result.stderr_line == "rows.csv: times have no zone, UTC assumed"
    reasons = dict(read_quarantine(tmp_path / "out").select("row", "reason").rows())
    assert sorted(reasons) == [2, 3, 4, 5, 6, 9]
    assert reasons[2] == "value is NaN"
    assert reasons[3] == "value is infinite"
    assert reasons[4] == "'x' is not a number"
    assert reasons[5] == "'yesterday' is not a time"
    assert reasons[6] == "series_id is missing"
    assert reasons[9].startswith("2 cells where the header has 3")


def test_one_notice_reports_assumed_utc_for_several_files(tmp_path: Path, model: Path) -> None:
    for name in ("1", "2", "3"):
        (tmp_path / f"{name}.csv").write_text("time,a,b\n2013-01-01 00:10,1,2\n2013-01-01 01:10,2,\n")
    result = statecast("backfill", "1.csv", "2.csv", "3.csv", "-m", model, "--json", cwd=tmp_path)
    assert result.stderr_line == "1.csv: times have no zone, UTC assumed (and those of 2 more files)"
    assert (result.json_object["rows_in"], result.json_object["used"], result.json_object["duplicates"]) == (
        9,
        3,
        6,
    )


@pytest.mark.prism
def test_a_stream_reports_series_rewarmed_from_another_models_state(
    tmp_path: Path, series: Path, model: Path, trained: tuple[str, dict[str, Any]]
) -> None:
    statecast("backfill", series, "-m", model, "-o", "a", "--end", "2013-01-03", cwd=tmp_path)
    before = read(tmp_path / "a" / "state").state
    new = trained[1]["version"]["model_version"]
    result = statecast(
        "stream", series, "-m", "tiny", "--tracking-uri", trained[0], "--state", "a/state", "-o", "b",
        "--start", "2013-01-03", "--end", "2013-01-04", cwd=tmp_path,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert result.stderr_line == (
        f"a/state was written by {before.model_version}: its 3 series are re-warmed for {new} from the last "
        "values of each"
    )
    assert read(tmp_path / "b" / "state").state.model_version == new


def test_init_writes_a_job_file_and_its_example_data(tmp_path: Path) -> None:
    result = statecast("init", "--example", "weather", "--json", cwd=tmp_path).json_object
    assert result == {"config": "statecast.toml", "data": "weather.parquet"}
    text = (tmp_path / "statecast.toml").read_text()
    assert 'paths = ["weather.parquet"]' in text
    assert 'model = "weather"' in text
    again = statecast("init", cwd=tmp_path)
    assert again.code == 2
    assert "statecast.toml already exists" in again.stderr_line
    assert (tmp_path / "statecast.toml").read_text() == text


def test_doctor_json_lists_checks_and_stderr_names_failed_checks(tmp_path: Path) -> None:
    result = statecast("doctor", "--json", cwd=tmp_path)
    checks = json.loads(result.out)["checks"]
    assert {"Python", "Prism", "MLflow store", "output folder"} <= {check["name"] for check in checks}
    bad = [check["name"] for check in checks if not check["ok"]]
    assert result.code == (5 if bad else 0)
    if bad:
        assert all(name in result.stderr_line for name in bad)
