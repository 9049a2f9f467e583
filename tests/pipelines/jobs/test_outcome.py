from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.jobs.outcome import Closings, Counts, Outcome, told
from pipelines.sinks.files import CLOSINGS
from schemas.errors import DataError, EngineError, OutputError, VersionMismatch

PLACES = ("used", "quarantined", "duplicates", "too_late", "pending")


@given(rows=st.lists(st.integers(0, 10**9), min_size=5, max_size=5), restored=st.integers(0, 100))
def test_no_row_is_missing_when_each_is_in_one_place(rows: list[int], restored: int) -> None:
    there = dict(zip(PLACES, rows, strict=True))
    rows_in = sum(rows) + restored
    assert Counts(rows_in=rows_in, restored=0, **there).missing == restored
    assert Counts(rows_in=sum(rows), restored=restored, **there).missing == restored
    assert Counts(rows_in=sum(rows), **there).missing == 0


def test_what_json_prints_has_every_count_and_the_latency() -> None:
    outcome = Outcome(Counts(rows_in=3, used=2), 1.23456, Path("out"), True, [5.0, 1.0, 9.0])
    printed = json.loads(json.dumps(outcome.as_json()))
    assert printed["seconds"] == 1.235
    assert printed["stopped"] is True
    assert printed["missing"] == 1
    assert printed["used"] == 2
    assert (printed["p50_ms"], printed["p99_ms"]) == (5.0, 9.0)
    assert "p50_ms" not in Outcome(Counts(), 1.0, Path("out")).as_json()


@given(latency=st.lists(st.floats(0, 1e6), min_size=1, max_size=50), level=st.floats(0, 1))
def test_a_share_of_closings_stays_at_or_under_its_latency(latency: list[float], level: float) -> None:
    found = Outcome(Counts(), 1.0, Path(), latency_ms=latency).latency_quantile_ms(level)
    assert found in latency
    assert sum(ms <= found for ms in latency) >= level * len(latency) - 1e-9


def test_without_closings_there_is_no_latency() -> None:
    assert math.isnan(Outcome(Counts(), 1.0, Path()).latency_quantile_ms(0.5))


def test_the_log_of_closings_is_told_line_by_line_and_never_a_half(tmp_path: Path) -> None:
    log = tmp_path / CLOSINGS
    log.write_text('{"shard": 0}\n')
    closings = Closings(tmp_path)
    assert closings.new() == []  # what was there before is another job's
    with log.open("a") as file:
        file.write('{"shard": 1}\n{"sha')
    assert closings.new() == [{"shard": 1}]
    with log.open("a") as file:
        file.write('rd": 2}\n')
    assert closings.new() == [{"shard": 2}]
    assert closings.new() == []
    assert Closings(tmp_path / "nowhere").new() == []


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        (
            "Traceback:\n  File x\nschemas.errors.DataError: a.csv: no column 'y' [while running 'Read']\n",
            DataError,
            "a.csv: no column 'y'",
        ),
        ("b'schemas.errors.VersionMismatch: re-warm it\\nmore'", VersionMismatch, "re-warm it"),
        ("first\nlast line\n\n", EngineError, "the pipeline failed: last line"),
        ("", EngineError, "the pipeline failed: RuntimeError"),
    ],
)
def test_what_a_runner_raised_is_told_in_one_line(text: str, kind: type[Exception], line: str) -> None:
    found = told(RuntimeError(text))
    assert type(found) is kind
    assert str(found) == line


def test_an_error_of_ours_is_told_as_it_is() -> None:
    error = OutputError("x: cannot be written")
    assert told(error) is error
