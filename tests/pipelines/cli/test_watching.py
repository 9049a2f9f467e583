from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.sinks.files import read_forecasts, read_quarantine
from tests.pipelines.cli.conftest import ended, start, until


def put(folder: Path, name: str, text: str) -> None:
    hidden = folder / f".{name}"
    hidden.write_text(text)
    hidden.rename(folder / name)


def rows(first: int, last: int) -> str:
    lines = [
        f"s{s},2013-01-{1 + h // 24:02}T{h % 24:02}:30:00Z,{h}" for h in range(first, last) for s in (0, 1)
    ]
    return "\n".join(["series_id,timestamp,value", *lines]) + "\n"


@pytest.mark.prism
def test_a_bad_file_stops_a_watch_with_its_line_or_is_skipped_and_counted(
    tmp_path: Path, model: Path
) -> None:
    (tmp_path / "in").mkdir()
    put(tmp_path / "in", "1.csv", rows(0, 30))
    put(tmp_path / "in", "2.csv", "what,is,this\n1,2,3\n")
    put(tmp_path / "in", "3.csv", rows(30, 40))

    strict = ended(start("stream", "in", "--watch", "-m", model, "-o", "a", cwd=tmp_path))
    assert strict.code == 3
    assert strict.line.startswith("error: in/2.csv: no column timestamp")
    assert not (tmp_path / "a" / "state").exists()

    lax = start("stream", "in", "--watch", "--skip-bad-files", "-m", model, "-o", "b", "--json", cwd=tmp_path)
    until(lambda: any((tmp_path / "b" / "forecasts").glob("*20130102T150000Z-shard*")), lax)
    lax.send_signal(signal.SIGINT)
    told = ended(lax)
    assert told.code == 0, told.err
    counts = json.loads(told.out)
    assert (counts["rows_in"], counts["bad_files"], counts["missing"]) == (80, 1, 0)


@pytest.mark.prism
def test_a_row_from_the_year_2225_closes_no_window(tmp_path: Path, model: Path) -> None:
    (tmp_path / "in").mkdir()
    put(tmp_path / "in", "1.csv", rows(0, 5) + "s0,2225-01-01T00:00:00Z,7\n")
    soon = datetime.now(UTC) + timedelta(days=2)
    put(tmp_path / "in", "2.csv", rows(5, 10) + f"s1,{soon:%Y-%m-%dT%H:%M:%SZ},7\n")
    job = start("stream", "in", "--watch", "-m", model, "--json", cwd=tmp_path)
    until(lambda: any((tmp_path / "out" / "forecasts").glob("*20130101T090000Z-shard*")), job)
    job.send_signal(signal.SIGTERM)
    told = ended(job)
    assert told.code == 0, told.err
    counts = json.loads(told.out)
    assert (counts["rows_in"], counts["quarantined"], counts["too_late"]) == (22, 2, 0)
    assert (counts["used"], counts["pending"], counts["missing"]) == (18, 2, 0)
    assert set(read_quarantine(tmp_path / "out")["reason"].str.slice(-28)) == {
        "more than a day in the future"[-28:]
    }
    assert str(read_forecasts(tmp_path / "out")["issued_at"].max()) == "2013-01-01 09:00:00+00:00"
