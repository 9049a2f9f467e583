"""Tests that rows of CSV files are read and counted correctly if quoted cells contain line breaks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipelines.sinks.files import read_forecasts, read_quarantine
from tests.pipelines.cli.conftest import Job

BEGIN = datetime(2023, 1, 1, tzinfo=UTC)


def times(count: int) -> list[str]:
    return [(BEGIN + timedelta(hours=hour)).isoformat() for hour in range(count)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_quoted_cell_with_a_line_break_is_one_row(job: Job, end: str) -> None:
    rows = [
        f'{at},"north{end}wing",{hour},"two ""words"",{end}{end}and a line"'
        for hour, at in enumerate(times(40))
    ]
    text = end.join(["timestamp,series_id,value,note", *rows, ""])
    (job.folder / "in.csv").write_bytes(text.encode())
    result, _ = job("backfill in.csv -m model")
    assert (result["rows_in"], result["used"], result["quarantined"]) == (40, 40, {})
    assert set(read_forecasts(job.folder / "out")["series_id"]) == {f"north{end}wing"}


def test_rows_with_line_breaks_are_counted_in_large_files(job: Job) -> None:
    # The CSV reader reads blocks of bytes. The cells are long, so that some blocks end inside a cell.
    note = ("x" * 100 + "\n") * 40
    rows = [f'{at},a,{hour % 24},"{note}"' for hour, at in enumerate(times(600))]
    (job.folder / "in.csv").write_text("\n".join(["timestamp,series_id,value,note", *rows, ""]))
    result, _ = job("backfill in.csv -m model --set data.batch_rows=1000")
    assert (result["rows_in"], result["used"], result["quarantined"]) == (600, 600, {})


def test_a_bad_quoted_cell_quarantines_only_its_own_row(job: Job) -> None:
    rows = [f"a,{at},{hour}" for hour, at in enumerate(times(40))]
    rows[10] = f'a,{times(11)[10]},"1\n0"'
    # The quote in this line is never closed: this line is rejected, but not the lines after it.
    rows[20] = f'"a,{times(21)[20]},20'
    (job.folder / "in.csv").write_text("\n".join(["series_id,timestamp,value", *rows, ""]))
    result, _ = job("backfill in.csv -m model")
    assert (result["rows_in"], result["used"]) == (40, 38)
    bad = read_quarantine(job.folder / "out").sort("row")
    assert bad["row"].to_list() == [11, 21]
    assert bad["reason"][0] == "'1\n0' is not a number"
    assert bad["reason"][1].startswith('a quoted cell that does not end: "a,2023-01-01T20')
