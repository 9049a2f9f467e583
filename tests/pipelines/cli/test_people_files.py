"""Tests that commands read the irregular files that people have.

Examples are series ids in folder names, indexes of data frames, receipts, and unusual headers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from pipelines.cli.app import run
from pipelines.sinks.files import read_forecasts, read_replaced
from tests.fleets import forecaster
from tests.pipelines.cli.conftest import Job

BEGIN = datetime(2023, 1, 1, tzinfo=UTC)
ZONE = "times have no zone, UTC assumed"


def hours(values: int, level: float = 0.0, step: timedelta = timedelta(hours=1)) -> pl.DataFrame:
    """Return the times, ``step`` apart, and the values of one series; the frame has no series id."""
    at = [BEGIN + i * step for i in range(values)]
    return pl.DataFrame(
        {"timestamp": at, "value": [level + np.sin(i) for i in range(values)]},
        schema_overrides={"timestamp": pl.Datetime("us", "UTC")},
    )


def write_parquet(frame: pl.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)
    return path


@pytest.mark.parametrize("name", ["series_id", "unique_id", "sensor"])
def test_series_ids_are_read_from_key_value_folder_names(job: Job, name: str) -> None:
    for i, series in enumerate(("007", "7", "12", "a b/c")):
        folder = f"{name}={series.replace('/', '%2F').replace(' ', '%20')}"
        write_parquet(hours(30, 100 * i), job.folder / "in" / folder / "part-0.parquet")
    option = " --set data.series_id=sensor" if name == "sensor" else ""
    summary, lines = job(f"backfill in -m model{option}")
    assert lines == []
    assert (summary["used"], summary["duplicates"]) == (120, 0)
    assert job.series() == {"007", "7", "12", "a b/c"}


def test_an_unused_column_in_a_folder_name_is_reported(job: Job) -> None:
    for month in ("2023-01", "2023-02"):
        rows = hours(30).with_columns(pl.lit("a").alias("series_id"))
        rows = rows.with_columns(pl.col("timestamp") + pl.duration(hours=30 if month[-1] == "2" else 0))
        write_parquet(rows, job.folder / "in" / f"month={month}" / "part-0.parquet")
    summary, lines = job("backfill in -m model")
    assert (summary["used"], summary["duplicates"]) == (60, 0)
    (line,) = lines
    assert line.startswith("in/month=2023-01/part-0.parquet: not read: column month (of the folder)")
    assert line.endswith("1 more file)")


def test_rows_of_several_sensors_need_series_id_or_layout(job: Job) -> None:
    for sensor in ("a", "b"):
        write_parquet(hours(30), job.folder / "folders" / f"sensor={sensor}" / "part-0.parquet")
        write_parquet(hours(30), job.folder / "files" / f"{sensor}.parquet")
    _, (line,) = job("backfill folders -m model", 3)
    assert "set data.series_id = sensor if each folder is a series" in line
    _, (line,) = job("backfill files -m model", 3)
    assert "no column names the series of the values" in line
    assert "data.layout = wide" in line
    summary, _ = job("backfill files -m model --set data.layout=wide")
    assert summary["duplicates"] == 30  # both files have the same 30 times; all rows are in series 'value'
    summary, _ = job("backfill files/a.parquet -m model")
    assert (summary["used"], job.series()) == (30, {"value"})
    numbered = pl.concat([hours(30).with_columns(pl.lit(i).alias("sensor_no")) for i in range(3)])
    write_parquet(numbered, job.folder / "numbered.parquet")
    _, (line,) = job("backfill numbered.parquet -m model", 3)
    assert "name the column of the series with data.series_id, such as 'sensor_no'" in line
    summary, _ = job("backfill numbered.parquet -m model --set data.series_id=sensor_no")
    assert job.series() == {"0", "1", "2"}


def write_frame_with_index(folder: Path, kind: str) -> Path:
    """Write a wide file with an index column, as pandas writes it, and return the path of the file."""
    wide = pl.DataFrame(
        {"timestamp": hours(40)["timestamp"], "north": np.arange(40.0), "south": np.arange(40.0) + 9}
    )
    numbered = pl.DataFrame({"i": [i for i in range(47) if i % 7 != 3][:40]}).hstack(wide)
    if kind == "named index":  # only the metadata that pandas writes show that this column is the index
        table = numbered.rename({"i": "row"}).to_arrow()
        metadata = json.dumps({"index_columns": ["row"], "columns": []})
        pq.write_table(table.replace_schema_metadata({"pandas": metadata}), folder / "in.parquet")
        return folder / "in.parquet"
    if kind.endswith(".csv"):
        name = {"index.csv": "", "index saved twice.csv": "Unnamed: 0"}[kind]
        lines = numbered.with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv()
        (folder / "in.csv").write_text(lines.replace("i,", f"{name},", 1))
        return folder / "in.csv"
    if kind == "reset index":
        return write_parquet(
            numbered.with_columns(index=pl.int_range(pl.len())).drop("i"), folder / "in.parquet"
        )
    if kind == "index of times":
        return write_parquet(wide.rename({"timestamp": "__index_level_0__"}), folder / "in.parquet")
    return write_parquet(numbered.rename({"i": "__index_level_0__"}), folder / "in.parquet")


def test_json_keys_first_appearing_after_1500_lines_are_read(job: Job) -> None:
    lines = [{"time": (BEGIN + timedelta(minutes=i)).isoformat(), "a": i} for i in range(1500)]
    lines += [{"time": (BEGIN + timedelta(minutes=i)).isoformat(), "late": i} for i in range(1500, 1700)]
    (job.folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary, _ = job("backfill in.jsonl -m model")
    assert (summary["used"], job.series()) == (1700, {"a", "late"})


@pytest.mark.parametrize(
    "kind", ["index", "index of times", "named index", "index.csv", "index saved twice.csv", "reset index"]
)
def test_a_data_frame_index_is_not_read_as_series(job: Job, kind: str) -> None:
    path = write_frame_with_index(job.folder, kind)
    summary, lines = job(f"backfill {path.name} -m model")
    assert job.series() == {"north", "south"}
    assert summary["used"] == 80
    assert len(lines) == (0 if kind == "index of times" else 1)
    assert all(": not read: column " in line for line in lines)


def test_header_with_commas_is_split_at_semicolons_of_rows(job: Job) -> None:
    rows = "".join(f"2023-01-01T{h:02}:00Z;{h}.5;{h + 50}\n" for h in range(24))
    for header in ('time;"Temp, C";"Hum, %"', "time;Temp, C;Hum, %", 'time;"Temp,\nC";"Hum, %"'):
        (job.folder / "in.csv").write_text(f"{header}\n{rows}")
        summary, _ = job("backfill in.csv -m model")
        assert summary["used"] == 48
        names = {name.replace("  ", " ") for name in job.series()}
        assert names == {"Temp, C", "Hum, %"}


def test_a_csv_header_cell_may_be_very_long(job: Job) -> None:
    long = "x" * 140_000
    rows = "".join(f"2023-01-01T{h:02}:00Z,{h}\n" for h in range(24))
    (job.folder / "in.csv").write_text(f'time,"{long}"\n{rows}')
    summary, _ = job("backfill in.csv -m model")
    assert summary["used"] == 24
    (job.folder / "in.csv").write_text(f'time,"open\n{rows}')
    _, (line,) = job("backfill in.csv -m model", 3)
    assert "in.csv: a quote in its header does not end" in line


RECEIPT_DAYS = 60


def receipts(seed: int = 0) -> list[tuple[str, str, float]]:
    """Return the till, the day and the amount of each receipt of `RECEIPT_DAYS` days.

    Each day, each till has two receipts of 5.0 and one to three receipts of random amounts.
    """
    chance = np.random.default_rng(seed)
    days = [(BEGIN + timedelta(days=d)).strftime("%Y-%m-%d") for d in range(RECEIPT_DAYS)]
    return [
        (till, day, amount)
        for till in ("till1", "till2")
        for day in days
        for amount in [5.0, 5.0, *chance.uniform(5, 40, chance.integers(1, 4)).round(2)]
    ]


def write_csv_rows(path: Path, rows: list[tuple[str, str, float]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("series_id,timestamp,value\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
    return path


@pytest.fixture(scope="module")
def daily(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that saves a forecaster of daily windows with a given aggregate in a new folder."""

    def save_daily_forecaster(aggregate: str) -> Path:
        folder = tmp_path_factory.mktemp("daily")
        forecaster(freq="1d", aggregate=aggregate).save(folder)
        return folder

    return save_daily_forecaster


def have_equal_forecasts(one: Path, other: Path) -> bool:
    frames = [read_forecasts(folder).select("series_id", "issued_at", "forecast") for folder in (one, other)]
    flat = [frame.explode("forecast").unnest("forecast") for frame in frames]
    joined = flat[0].join(flat[1], on=["series_id", "issued_at", "horizon"], suffix="_other")
    difference = (joined["q50"] - joined["q50_other"]).abs().max()
    return len(joined) == len(flat[0]) == len(flat[1]) and difference is not None and float(difference) < 1e-4  # type: ignore[arg-type]


def test_receipts_in_any_order_give_forecasts_of_daily_sums(job: Job, daily: Callable[[str], Path]) -> None:
    rows, model = receipts(), daily("sum")
    sums: dict[tuple[str, str], float] = {}
    for till, day, amount in rows:
        sums[till, day] = sums.get((till, day), 0.0) + amount
    write_csv_rows(job.folder / "receipts.csv", rows)
    write_csv_rows(
        job.folder / "shuffled.csv", [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    )
    write_csv_rows(job.folder / "daily.csv", [(*key, total) for key, total in sums.items()])
    for name, used in (("daily", len(sums)), ("receipts", len(rows)), ("shuffled", len(rows))):
        summary, _ = job(f"backfill {name}.csv -m {model} -o {name}")
        assert (summary["used"], summary["duplicates"]) == (used, 0)
        assert have_equal_forecasts(job.folder / "daily", job.folder / name)
    summary, lines = job(f"backfill receipts.csv {job.folder / 'receipts.csv'} -m {model}")
    assert summary["used"] == len(rows)
    assert "is the same file as receipts.csv and is read once" in lines[0]


@pytest.mark.parametrize("aggregate", ["mean", "max", "last"])
def test_a_later_corrected_row_replaces_the_earlier_row(
    job: Job, daily: Callable[[str], Path], aggregate: str
) -> None:
    model = daily(aggregate)
    days = [(BEGIN + timedelta(days=d)).strftime("%Y-%m-%d") for d in range(40)]
    first = [(till, day, 10.0 + d % 7) for till in "ab" for d, day in enumerate(days)]
    corrected = [(t, day, value * 0.5) for t, day, value in first[-20:]]
    write_csv_rows(job.folder / "in" / "1.csv", first)
    write_csv_rows(job.folder / "in" / "2.csv", [*corrected, *first[:5]])
    write_csv_rows(job.folder / "right.csv", [*first[:-20], *corrected])
    job(f"backfill right.csv -m {model} -o right")
    summary, _ = job(f"backfill in -m {model}")
    assert (summary["used"], summary["duplicates"], summary["replaced"]) == (80, 25, 20)
    assert have_equal_forecasts(job.folder / "right", job.folder / "out")
    kept = read_replaced(job.folder / "out")
    assert len(kept) == 20
    assert (kept["replaced_by"] == kept["value"] / 2).all()
    streamed, _ = job(f"stream in -m {model} -o stream --runner in-process")
    assert (streamed["duplicates"], streamed["replaced"]) == (25, 20)
    assert have_equal_forecasts(job.folder / "right", job.folder / "stream")


def test_replaced_rows_of_the_repeated_local_hour_are_stored(job: Job) -> None:
    """When summer time ends, an hour of local times occurs twice.

    Without a zone, the rows of the second hour replace the rows of the first. With a zone, all rows count.
    """
    local = [f"2023-10-29T{h:02}:{m:02}:00" for h in (0, 1, 2, 2, 3, 4) for m in (0, 30)]
    write_csv_rows(job.folder / "in.csv", [("a", at, float(i)) for i, at in enumerate(local)])
    summary, _ = job("backfill in.csv -m model")
    assert (summary["rows_in"], summary["used"], summary["duplicates"], summary["replaced"]) == (12, 10, 2, 2)
    kept = read_replaced(job.folder / "out").select("value", "replaced_by").rows()
    assert kept == [(4.0, 6.0), (5.0, 7.0)]
    zoned = [f"{at}{'+02:00' if i < 6 else '+01:00'}" for i, at in enumerate(local)]
    write_csv_rows(job.folder / "in.csv", [("a", at, float(i)) for i, at in enumerate(zoned)])
    summary, _ = job("backfill in.csv -m model")
    assert (summary["used"], summary["duplicates"]) == (12, 0)


def test_unread_files_of_an_input_folder_are_reported(job: Job) -> None:
    folder = write_parquet(hours(30), job.folder / "in" / "a.parquet").parent
    for name in ("b.csv.lz4", "c.docx", "_d.csv", ".e.csv", "README"):
        (folder / name).write_text("x")
    (folder / "_deep").mkdir()
    (folder / "_deep" / "f.csv").write_text("x")
    _, lines = job("backfill in -m model")
    hidden = "(its name begins with . or _)"
    left_out = f".e.csv {hidden}, README (without a suffix), _d.csv {hidden} and 3 more"
    assert lines == [f"in: 6 files are left out: {left_out}"]
    (folder / "a.parquet").unlink()
    _, (line,) = job("backfill in -m model", 3)
    assert "no CSV, Parquet, JSON lines or Excel files" in line
    assert "6 files are left out" in line
    _, (line,) = job("backfill in/b.csv.lz4 -m model", 3)
    assert "compressed in a way that is not known" in line


def write_bad_rows(path: Path, good: int, bad: int) -> Path:
    """Write a CSV of ``good`` valid rows, then ``bad`` rows whose value is not a number."""
    rows = [("a", f"2023-01-{1 + h // 24:02}T{h % 24:02}:00Z", h) for h in range(good)]
    text = [f"{a},{b},{c}\n" for a, b, c in rows] + ["a,2023-02-01T00:00Z,much\n"] * bad
    path.write_text("series_id,timestamp,value\n" + "".join(text))
    return path


def test_a_backfill_fails_if_too_many_rows_are_quarantined(job: Job) -> None:
    write_bad_rows(job.folder / "in.csv", 80, 20)
    _, (line,) = job("backfill in.csv -m model", 3)
    assert "20 of 100 rows (20%) are quarantined, and data.max_quarantined = 0.1 allows 10%" in line
    assert "the first: in.csv, row 81: 'much' is not a number" in line
    assert not (job.folder / "out" / "forecasts").exists()
    summary, _ = job("backfill in.csv -m model --set data.max_quarantined=0.2")
    assert summary["quarantined_share"] == 0.2
    write_bad_rows(job.folder / "in.csv", 90, 10)
    assert job("backfill in.csv -m model")[0]["used"] == 90
    for option in ("-1", "1.5"):
        job(f"backfill in.csv -m model --set data.max_quarantined={option}", 2)


def test_training_and_evaluation_fail_on_too_many_quarantined_rows(job: Job) -> None:
    write_bad_rows(job.folder / "in.csv", 80, 20)
    for command in ("train in.csv", "evaluate in.csv --train-rows 40"):
        _, lines = job(command, 3)
        assert "data.max_quarantined = 0.1" in lines[-1]
    job("backfill in.csv -m model --set data.max_quarantined=1")
    _, lines = job("evaluate in.csv -f out", 3)
    assert "data.max_quarantined = 0.1" in lines[-1]


def test_a_stream_warns_if_too_many_rows_are_quarantined(job: Job) -> None:
    write_bad_rows(job.folder / "in.csv", 80, 20)
    summary, lines = job("stream in.csv -m model --runner in-process")
    assert summary["quarantined_share"] == 0.2
    assert [line for line in lines if "data.max_quarantined" in line] == [
        "20 of 100 rows (20%) are quarantined, and data.max_quarantined = 0.1 allows 10%: 20 is not a number"
    ]
    _, lines = job("stream in.csv -m model --runner in-process -o other --set data.max_quarantined=1")
    assert not [line for line in lines if "max_quarantined" in line]


def test_evaluate_names_the_unit_of_its_errors(job: Job) -> None:
    rows = hours(80, 1e12).with_columns(pl.lit("a").alias("series_id"))
    write_parquet(rows, job.folder / "in.parquet")
    write_parquet(rows.filter(pl.col("timestamp") >= BEGIN + timedelta(hours=50)), job.folder / "end.parquet")
    job("backfill in.parquet -m model")
    printed, _ = job("evaluate in.parquet -f out")
    assert printed["unit"].startswith("in the values' own unit: too few rows lie before the first forecast")
    job("backfill end.parquet -m model -o late")
    printed, _ = job("evaluate in.parquet -f late")
    assert (
        printed["unit"]
        == "in seasonal naive's own error (MASE) on each series' rows before the first forecast"
    )
    printed, _ = job("evaluate in.parquet -f out --train-end 2023-01-02")
    assert printed["unit"].endswith("rows before 2023-01-02")


def test_evaluate_prints_large_errors_in_few_characters(job: Job) -> None:
    huge = hours(80).with_columns(pl.lit("a").alias("series_id"), pl.col("value") * 1e60)
    write_parquet(huge, job.folder / "in.parquet")
    job("backfill in.parquet -m model")
    assert run(["evaluate", "in.parquet", "-f", "out", "--report", "report.html"]) == 0
    printed = job.streams.readouterr().out
    assert "in the values' own unit" in printed
    shown = [cell for line in printed.splitlines() if "│" in line for cell in line.strip("│").split("│")]
    assert max(len(cell.strip()) for cell in shown) < 12
    page = (job.folder / "report.html").read_text()
    assert "(MASE)" not in page
    assert "In the values' own unit" in page.replace("&#x27;", "'")


def test_evaluate_divides_errors_by_the_scale_of_the_training_rows(
    job: Job, trained: tuple[str, dict[str, Any]], series: Path
) -> None:
    store = f"--tracking-uri {trained[0]}"
    job(f"backfill {series} -m tiny {store}")
    printed, _ = job(f"evaluate {series} -f out {store}")
    assert printed["unit"].endswith(f"rows that {trained[1]['version']['model_version']} was trained on")
    assert max(row["mae"] for row in printed["scores"]) < 10
