"""Tests that the dashboard reads only the files that it needs, and caches files that do not change."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.time.frequency import Frequency
from pipelines.dashboard import alarms
from pipelines.dashboard.alarms import AlarmReader
from pipelines.dashboard.changed_files import ChangedFiles
from pipelines.dashboard.forecast_files import ForecastFiles
from pipelines.dashboard.output_view import OutputView
from pipelines.dashboard.series_search import MOST_FOUND, SeriesSearch
from pipelines.dashboard.snapshots import Snapshots
from pipelines.sinks import files
from pipelines.sinks.files import write_frame
from pipelines.state import snapshot_file
from pipelines.storage.disk_store import DiskStore
from schemas.errors import DataError


class Recorder:
    """Reads text files, and records the names of the files that it has read."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, path: Path) -> str:
        self.names.append(path.name)
        text = path.read_text()
        if text == "damaged":
            raise DataError(f"{path.name} is damaged")
        return text


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    """Return three text files, ``a``, ``b`` and ``c``, each of which contains its name."""
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
    return paths


def test_the_dashboard_rereads_a_file_only_after_a_change(texts: list[Path]) -> None:
    read = Recorder()
    cache = ChangedFiles(read)  # type: ignore[arg-type]
    assert [cache.read(texts), cache.read(texts)] == [["a", "b", "c"]] * 2
    assert read.names == ["a", "b", "c"]
    texts[1].write_text("new")
    os.utime(texts[1], ns=(1, 1))
    assert cache.read(texts) == ["a", "new", "c"]
    assert read.names == ["a", "b", "c", "b"]


def test_the_cache_keeps_only_files_of_the_last_read(texts: list[Path]) -> None:
    read = Recorder()
    cache = ChangedFiles(read)  # type: ignore[arg-type]
    cache.read(texts)
    assert cache.read(texts[:1]) == ["a"]
    assert cache.read(texts[:2]) == ["a", "b"]
    assert read.names == ["a", "b", "c", "b"]


def test_the_next_call_reads_files_that_a_limit_postponed(texts: list[Path]) -> None:
    cache = ChangedFiles(Recorder())  # type: ignore[arg-type]
    assert (cache.read(texts, most=2), cache.unread) == (["a", "b"], 1)
    assert (cache.read(texts, most=2), cache.unread) == (["a", "b", "c"], 0)


def test_the_dashboard_skips_deleted_and_damaged_files(texts: list[Path]) -> None:
    texts[0].unlink()
    texts[1].write_text("damaged")
    cache = ChangedFiles(Recorder())  # type: ignore[arg-type]
    assert (cache.read(texts), cache.errors) == (["c"], ["b is damaged"])
    texts[1].write_text("b")
    assert (cache.read(texts), cache.errors) == (["b", "c"], [])


def test_chart_forecasts_are_issued_one_horizon_apart_across_files(finished: Path) -> None:
    horizon_us, count = 3 * 3_600_000_000, 60
    fans = ForecastFiles(finished).fans("gate 2", None, Frequency(3600), count)
    issued_us = [fan["issued_us"] for fan in fans]
    assert issued_us == [issued_us[0] - number * horizon_us for number in range(count)]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which each call of `DiskStore.open_parts` adds the name of the file it opens."""
    names: list[str] = []
    original = DiskStore.open_parts

    def record(store: DiskStore) -> IO[bytes]:
        assert store.on_disk is not None
        names.append(store.on_disk.name)
        return original(store)

    monkeypatch.setattr(DiskStore, "open_parts", record)
    return names


def test_alarms_are_read_only_from_the_newest_forecast_files(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarms, "ALARM_FILES", 5)
    monkeypatch.setattr(alarms, "ROWS_AT_ONCE", 3 << 15)  # 3 files: a small file counts as 2**15 rows
    read = AlarmReader(ForecastFiles(finished)).read
    newest = sorted((path.name for path in (finished / "forecasts").iterdir()), key=lambda n: n[17:])[-5:]
    assert len(newest) == 5
    for read_files, unread in ((3, 2), (5, 0)):
        found = read()
        assert found.unread == unread
        assert f"{found.since:%Y%m%dT%H%M%SZ}" == min(name[:16] for name in newest[-read_files:])


def test_alarm_reading_pauses_at_the_row_limit_and_continues(
    finished: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    monkeypatch.setattr(alarms, "_ROWS_OF_A_FILE", 1)
    rows = [pq.read_metadata(path).num_rows for path in (finished / "forecasts").iterdir()]
    monkeypatch.setattr(alarms, "ROWS_AT_ONCE", sum(rows) // 2)
    reader, read = AlarmReader(ForecastFiles(finished)), 0
    while (found := reader.read()).unread:
        new, read = len(opened) - read, len(opened)
        assert new < len(rows)
    assert len(opened) == len(rows)
    assert reader.read() is found


def test_the_dashboard_opens_no_file_of_an_unchanged_output(finished: Path, opened: list[str]) -> None:
    view = OutputView(finished)

    def poll() -> list[Any]:
        by_clock = ("read_at", "watermark_lag_s")
        fleet = {name: shown for name, shown in view.fleet().items() if name not in by_clock}
        return [fleet, view.series("gate 2"), view.search("ga")]

    before = poll()
    assert opened
    opened.clear()
    assert poll() == before
    assert opened == []


def test_forecasts_of_a_series_are_read_only_from_files_of_its_shard(
    finished: Path, opened: list[str]
) -> None:
    read = ForecastFiles(finished).fans
    assert len(read("yard", None, Frequency(3600), 3)) == 3
    assert len({name.partition("-shard-")[2] for name in opened}) == 1
    assert len(opened) <= 3
    before = len(opened)
    read("yard", None, Frequency(3600), 3)
    assert len(opened) == before


def test_series_search_sorts_ids_again_only_for_changed_snapshots(finished: Path) -> None:
    search, shards = SeriesSearch(), Snapshots(finished).read()
    before = search.find(shards, "gate")
    without_ids = [replace(one, ids=pl.Series([], dtype=pl.String)) for one in shards]
    assert search.find(without_ids, "gate") == before
    changed = [replace(one, written_ns=one.written_ns + 1) for one in without_ids]
    assert search.find(changed, "gate").of == 0


@given(ids=st.lists(st.text("aAbB/1. ", min_size=1), unique=True), text=st.text("aAbB/1. ", max_size=2))
def test_the_series_search_finds_the_ids_that_contain_a_text(ids: list[str], text: str) -> None:
    halves = ids[: len(ids) // 2], ids[len(ids) // 2 :]
    shards = [
        SimpleNamespace(name=str(n), written_ns=1, ids=pl.Series(half, dtype=pl.String))
        for n, half in enumerate(halves)
    ]
    expected = sorted(
        (one for one in ids if text.lower() in one.lower()),
        key=lambda one: (not one.lower().startswith(text.lower()), one),
    )
    found = SeriesSearch().find(shards, text)  # type: ignore[arg-type]
    assert found == (len(expected), len(ids), expected[:MOST_FOUND])


def test_the_series_search_returns_at_most_50_of_100000_ids(finished: Path) -> None:
    ids = pl.Series([f"meter {n:06d}" for n in range(100_000)])
    shards = [replace(Snapshots(finished).read()[0], ids=ids)]
    search = SeriesSearch()
    assert search.find(shards, "") == (100_000, 100_000, ids.head(50).to_list())
    assert search.find(shards, "METER 09999") == (10, 100_000, ids[99_990:100_000].to_list())
    assert search.find(shards, "4567").ids[:2] == ["meter 004567", "meter 014567"]
    both = pl.Series([f"{begin}1-{n:02d}" for begin in ("a", "1") for n in range(60)])
    assert SeriesSearch().find([replace(shards[0], ids=both)], "1").ids == [f"11-{n:02d}" for n in range(50)]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return a counter: for each column name, the number of rows that `iter_batches` has read so far."""
    rows: Counter[str] = Counter()

    class Recording(pq.ParquetFile):  # type: ignore[misc]
        def iter_batches(self, *args: Any, columns: list[str], **options: Any) -> Iterator[pa.RecordBatch]:
            for batch in super().iter_batches(*args, columns=columns, **options):
                rows.update(dict.fromkeys(columns, batch.num_rows))
                yield batch

    monkeypatch.setattr(pq, "ParquetFile", Recording)
    return rows


def test_reading_forecasts_of_a_series_decodes_one_row_group(
    output: Path, monkeypatch: pytest.MonkeyPatch, decoded: Counter[str]
) -> None:
    newest = max((output / "forecasts").iterdir(), key=lambda path: path.name[17:])
    frame = pl.read_parquet(newest)
    monkeypatch.setattr(files, "_ROWS_OF_A_GROUP", 8)
    write_frame(frame, newest, "parquet")
    assert pq.read_metadata(newest).num_row_groups == -(-len(frame) // 8) > 1
    series_id = frame["series_id"][0]
    (fan,) = ForecastFiles(output).fans(series_id, None, Frequency(3600), 1)
    expected = frame.filter(pl.col("series_id") == series_id).sort("issued_at")["forecast"].to_list()[-1]
    assert fan["forecast"] == expected
    assert decoded == {"forecast": len(frame) % 8 or 8}


def test_reading_values_of_a_series_decodes_one_row_group(
    output: Path, monkeypatch: pytest.MonkeyPatch, decoded: Counter[str]
) -> None:
    expected = OutputView(output).series("gate 2")["value"]
    decoded.clear()
    monkeypatch.setattr(snapshot_file, "_ROWS_OF_A_GROUP", 1)
    for path in (output / "state").glob("*.parquet"):
        snapshot_file.write_table(pq.read_table(path), path)
    found = Snapshots(output).values("gate 2")
    assert found is not None
    assert found[1].tolist() == expected != []
    assert decoded == {"ring.values": 1}
