"""Tests that commands read files of other programs, quarantine bad rows, or print which setting is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli.app import run
from pipelines.sinks.files import read_forecasts, read_quarantine

START = datetime(2023, 1, 1, tzinfo=UTC)
HOURS = 60

Command = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def command(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Return a function that runs a command: it returns the exit code, the printed JSON, and stderr."""
    monkeypatch.chdir(tmp_path)

    def run_command(name: str, *arguments: object) -> tuple[int, dict[str, Any], str]:
        code = run([name, *map(str, arguments), "-m", str(model), "--json"])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        assert "panicked" not in captured.err
        return code, json.loads(captured.out) if captured.out else {}, captured.err

    return run_command


def values(series: int, first: int = 0, last: int = HOURS) -> list[tuple[str, datetime, float]]:
    """Return hourly rows of one or two series, with values of 1000 or more.

    Every third value of a series has decimals.
    """
    return [
        (("Hof", "Küche")[s], START + timedelta(hours=h), float(1000 + h) if h % 3 else 1000.25 + h * (s + 1))
        for s in range(series)
        for h in range(first, last)
    ]


def german_number(value: float) -> str:
    shown = f"{value:,.2f}".rstrip("0").rstrip(".")
    return shown.replace(",", "@").replace(".", ",").replace("@", ".")


def sheet(time: str = "%Y-%m-%d %H:%M", write: Callable[[float], str] = str, delimiter: str = ";") -> str:
    """Return the rows of two series as the CSV text that a spreadsheet program exports."""
    lines = [delimiter.join((s, t.strftime(time), write(v))) for s, t, v in values(2)]
    return "\r\n".join([delimiter.join(("series_id", "timestamp", "value")), *lines]) + "\r\n"


def forecasts(folder: str) -> pl.DataFrame:
    return read_forecasts(Path(folder)).sort("series_id", "issued_at")


def test_excel_text_exports_give_the_same_forecasts_as_plain_csv(command: Command, tmp_path: Path) -> None:
    sheets = {
        "plain.csv": sheet("%Y-%m-%dT%H:%MZ", delimiter=",").encode(),
        "bom.csv": b"\xef\xbb\xbf" + sheet().encode(),
        "comma.csv": b"\xef\xbb\xbf" + sheet(write=german_number).encode(),
        "quoted.csv": sheet(write=lambda v: f'"{german_number(v)}"', delimiter=",").encode(),
        "unicode.txt": sheet(write=german_number, delimiter="\t").encode("utf-16"),
        "cp1252.csv": sheet(write=german_number).encode("cp1252"),
        "us.csv": sheet("%m/%d/%Y %I:%M %p", lambda v: f'"{v:,.2f}"', ",").encode(),
    }
    for name, content in sheets.items():
        (tmp_path / name).write_bytes(content)
        more: tuple[str, ...] = ()
        if name == "us.csv":  # no day of the month is above 12, so the order of day and month is ambiguous
            code, _, line = command("backfill", name, "-o", "refused")
            assert (code, "or '%d/%m/%Y %I:%M %p'" in line) == (3, True), line
            assert not (tmp_path / "refused" / "forecasts").exists()
            more = ("-s", "data.time_format=%m/%d/%Y %I:%M %p")
        code, summary, line = command("backfill", name, "-o", name.split(".")[0], *more)
        assert (code, summary["used"], summary["missing"]) == (0, 2 * HOURS, 0), line
        assert forecasts(name.split(".")[0]).equals(forecasts("plain")), name


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_spreadsheet_date_numbers_are_read_as_times(command: Command, tmp_path: Path, suffix: str) -> None:
    rows = [(s, 44927 + (t - START) / timedelta(days=1), v) for s, t, v in values(1)]
    frame = pl.DataFrame(rows, ["series_id", "timestamp", "value"], orient="row")
    file = f"serial.{suffix}"
    frame.write_csv(file, float_precision=7) if suffix == "csv" else frame.write_parquet(file)
    code, summary, _ = command("backfill", file)
    assert (code, summary["used"]) == (0, HOURS)
    assert forecasts("out")["issued_at"].to_list() == [START + timedelta(hours=h + 1) for h in range(HOURS)]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_timestamps_that_only_count_rows_are_refused_before_training(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = pl.DataFrame(
        {"unique_id": ["H1"] * 300, "ds": range(1, 301), "y": [float(i % 24) for i in range(300)]}
    )
    frame.write_csv("m4.csv") if suffix == "csv" else frame.write_parquet("m4.parquet")
    code = run(["train", f"m4.{suffix}", "--freq", "1h"])
    line = capsys.readouterr().err
    assert code == 3
    assert "'1' is too small for a time since 1970: for a count of steps set data.time_format = 's'" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"m4.{suffix}"]


@pytest.mark.parametrize("first", ["float", "int", "category"])
def test_a_series_keeps_its_state_if_the_type_of_its_id_changes(
    command: Command, tmp_path: Path, first: str
) -> None:
    rows = [(7 + i, t, v) for i in range(2) for _, t, v in values(1)]
    frame = pl.DataFrame(rows, ["unique_id", "ds", "y"], orient="row")
    history = frame.filter(pl.col("ds") < START + timedelta(hours=40))
    kinds: dict[str, list[type[pl.DataType]]] = {
        "float": [pl.Float64],
        "int": [pl.Int64],
        "category": [pl.String, pl.Categorical],
    }
    for kind in kinds[first]:
        history = history.with_columns(pl.col("unique_id").cast(kind))
    history.write_parquet("history.parquet")
    later = frame.filter(pl.col("ds") >= START + timedelta(hours=40))
    later.write_csv("later.csv")
    later.with_columns(pl.col("ds").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_ndjson("later.jsonl")
    assert command("backfill", "history.parquet", "-o", "a")[1]["used"] == 80
    assert command("backfill", "later.csv", "-o", "whole", "--state", "a/state")[0] == 0
    for file, out in (("later.csv", "b"), ("later.jsonl", "c")):
        code, summary, line = command(
            "stream", file, "--runner", "in-process", "--state", "a/state", "-o", out
        )
        assert (code, summary["cold_starts"], summary["used"]) == (0, 0, 40), line
        assert forecasts(out).equals(forecasts("whole"))
        assert forecasts(out)["series_id"].unique().sort().to_list() == ["7", "8"]


def test_an_int96_time_out_of_range_is_quarantined(command: Command, tmp_path: Path) -> None:
    rows = [*values(1), ("Hof", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), 1.0)]
    table = pl.DataFrame(rows, ["series_id", "timestamp", "value"], orient="row").to_arrow()
    pq.write_table(table, "far.parquet", use_deprecated_int96_timestamps=True, store_schema=False)
    code, summary, _ = command("backfill", "far.parquet")
    assert (code, summary["used"], summary["rows_in"]) == (0, HOURS, HOURS + 1)
    assert read_quarantine(tmp_path / "out")["reason"].to_list() == [
        "'9999-12-31 23:59:59.000000' is outside the years 1678 to 2261"
    ]
    assert forecasts("out")["issued_at"].max() == START + timedelta(hours=HOURS)


def test_parquet_columns_of_unusual_types_are_read_or_quarantined(command: Command, tmp_path: Path) -> None:
    plain = pl.DataFrame(values(1), ["series_id", "timestamp", "value"], orient="row").to_arrow()
    numbers = pa.array([round(v) for _, _, v in values(1)])
    wide = numbers.cast(pa.decimal256(60, 9))
    tables = {
        "unused": plain.append_column("note", wide),
        "decimal": plain.set_column(2, "value", wide),
        "dictionary": plain.set_column(2, "value", wide.dictionary_encode()),
        "duration": plain.set_column(2, "value", numbers.cast(pa.duration("us"))),
        "bytes": plain.set_column(0, "series_id", pa.array([b"\xff"] * HOURS)),
    }
    quarantined = {}
    for name, table in tables.items():
        pq.write_table(table, f"{name}.parquet")
        # The job fails if all its rows are quarantined, but first it writes the quarantine, which is checked.
        command(
            "stream",
            f"{name}.parquet",
            "--runner",
            "in-process",
            "-o",
            name,
            "-s",
            "data.skip_bad_files=true",
        )
        quarantined[name] = read_quarantine(tmp_path / name)["reason"].to_list()
        used = 0 if quarantined[name] else HOURS
        assert len(quarantined[name]) == HOURS - used, name
    assert quarantined["unused"] == quarantined["decimal"] == quarantined["dictionary"] == []
    assert quarantined["duration"][1] == (
        "'PT0.001001S' is not a number (column value is Duration(time_unit='us'))"
    )
    assert quarantined["bytes"][0] == "'\\xff' is no text (column series_id is Binary)"
