"""Tests of the output files of a job: forecasts, late rows and rejected rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.dataset
import pytest

from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.stepping.advance import advance
from forecaster.time.windows import Windows
from pipelines.sinks import files as sinks
from pipelines.sinks.files import (
    LATE,
    PARTS,
    QUARANTINE,
    Format,
    RowPlace,
    ShardFiles,
    read_forecasts,
    read_late,
    read_quarantine,
)
from pipelines.storage import sync
from schemas import late, observations, quarantine
from schemas.errors import DataError, OutputError
from schemas.forecasts import check_forecasts
from tests.fleets import HOUR_US, START, forecaster
from tests.outputs import contents

VERSION = forecaster().version
FORMATS = pytest.mark.parametrize("format_", ["parquet", "jsonl"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in PARTS:
        (tmp_path / part).mkdir()
    return tmp_path


def issued_forecasts(
    shard: int = 0,
    windows: int = 4,
    level: float = 0.0,
    start: int = START,
    model: Forecaster | None = None,
) -> Forecasts:
    model = model or forecaster()
    values = level + np.random.default_rng(shard).normal(size=(windows, 2))
    return advance(model, model.initial_state(), Windows((f"a{shard}", f"b{shard}"), start, values))[1]


def shard_files(folder: Path, shard: int = 0, format_: Format = "parquet") -> ShardFiles:
    return ShardFiles(folder, shard, 2, format_)


def write_forecasts(
    folder: Path, *shards: int, format_: Format = "parquet", windows: int = 4, level: float = 0
) -> None:
    for shard in shards:
        shard_files(folder, shard, format_).write_forecasts(issued_forecasts(shard, windows, level))


def rejected_rows(*offsets: int) -> pl.DataFrame:
    raw = pl.DataFrame(
        {
            "series_id": ["a"] * len(offsets),
            "timestamp": ["2013-01-01"] * len(offsets),
            "value": ["x"] * len(offsets),
            "row": list(offsets),
        },
        schema_overrides={"row": pl.Int64},
    )
    return observations.validate(raw.with_columns(file=pl.lit("f.csv")))[1]


def late_rows(*offsets: int) -> pl.DataFrame:
    rows = {
        "series_id": "a",
        "timestamp": 1_357_000_000_000_000,
        "value": 1.0,
        "late_s": 5.0,
        "partition": "replay",
        "offset": offsets,
    }
    return pl.DataFrame(rows, schema=late.SCHEMA)


@FORMATS
def test_read_forecasts_returns_written_forecasts_unchanged(folder: Path, format_: Format) -> None:
    parts = [issued_forecasts(0), issued_forecasts(1, level=1e9)]
    for shard, part in enumerate(parts):
        shard_files(folder, shard, format_).write_forecasts(part)
    found = read_forecasts(folder)
    expected = pl.concat([part.frame() for part in parts]).sort("issued_at", "series_id")
    assert check_forecasts(found).equals(expected)
    assert found.schema == expected.schema


@FORMATS
def test_writing_forecasts_again_gives_the_same_files(folder: Path, format_: Format) -> None:
    write_forecasts(folder, 0, 1, format_=format_)
    before = contents(folder / "forecasts")
    write_forecasts(folder, 1, 0, format_=format_)
    assert contents(folder / "forecasts") == before
    assert sorted(before) == [
        f"20130101T010000Z-20130101T040000Z-{VERSION}-r0-shard-000{shard}-of-0002.{format_}"
        for shard in (0, 1)
    ]


def test_incomplete_forecast_and_quarantine_files_are_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_forecasts(folder, 0)
    shard_files(folder).write_rows(QUARANTINE, "replay", 3, rejected_rows(3))
    before = read_forecasts(folder)

    def write_half(frame: pl.DataFrame, path: Path, format_: Format) -> None:
        path.write_bytes(b"PAR1 and half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(sinks, "write_frame", write_half)
    for shard in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            write_forecasts(folder, shard, level=5)
        with pytest.raises(KeyboardInterrupt):
            shard_files(folder, shard).write_rows(QUARANTINE, "replay", 9, rejected_rows(9))
    assert read_forecasts(folder).equals(before)
    assert read_quarantine(folder)["row"].to_list() == [3]
    assert read_late(folder).equals(late.empty())


def test_the_last_written_of_duplicate_forecasts_is_read(folder: Path) -> None:
    write_forecasts(folder, 0, windows=4)
    write_forecasts(folder, 0, windows=3, level=100)
    for age, file in enumerate(sorted((folder / "forecasts").iterdir())):
        # Sorted by name, the file that was written last comes first. Files written in quick succession may
        # have equal modification times, so set them here: the first file by name gets the latest time.
        os.utime(file, (1e9 - age, 1e9 - age))
    found = read_forecasts(folder)
    assert len(found) == 8
    again = issued_forecasts(0, windows=3, level=100).frame()
    assert found.join(again, on=["series_id", "issued_at"], how="semi").equals(
        again.sort("issued_at", "series_id")
    )


def test_two_models_write_separate_files_of_forecasts(folder: Path) -> None:
    other = forecaster(seed=1)
    write_forecasts(folder, 0)
    shard_files(folder).write_forecasts(issued_forecasts(model=other))
    found = read_forecasts(folder)
    assert len(found) == 16
    assert set(found["model_version"]) == {VERSION, other.version}


def test_late_and_rejected_rows_written_twice_are_read_once(folder: Path) -> None:
    for _ in range(2):
        shard_files(folder, 0).write_rows(QUARANTINE, "replay", 0, rejected_rows(7, 3))
        shard_files(folder, 1).write_rows(QUARANTINE, "folder", 0, rejected_rows(5))
        shard_files(folder, 1).write_rows(LATE, "replay", 2, late_rows(2, 4))
        shard_files(folder, 0).write_rows(LATE, "replay", 0, late_rows(0))
    assert quarantine.QuarantinedRow.validate(read_quarantine(folder))["row"].to_list() == [3, 5, 7]
    assert late.LateRow.validate(read_late(folder))["offset"].to_list() == [0, 2, 4]
    assert read_quarantine(folder / "nowhere").equals(quarantine.empty())
    assert read_late(folder / "nowhere").equals(late.empty())


ODD_PARTITIONS = [
    ".hidden-0",
    "_private-0",
    "a/b-0",
    "ü-0",
    "%2Ehidden-0",
    f"{'x' * 249}-0",
    f"{'x' * 249}-1",
]


@pytest.mark.parametrize("partition", ODD_PARTITIONS)
def test_rows_of_oddly_named_partitions_are_read_back(folder: Path, partition: str) -> None:
    shard_files(folder).write_rows(LATE, partition, 2, late_rows(2))
    shard_files(folder).write_rows(QUARANTINE, partition, 3, rejected_rows(3))
    assert read_late(folder)["offset"].to_list() == [2]
    assert read_quarantine(folder)["row"].to_list() == [3]
    # The name of the file must not begin with . or _, because pyarrow ignores such files in a folder.
    assert pyarrow.dataset.dataset(folder / LATE).count_rows() == 1
    shard_files(folder).remove_after(None, {partition: 3}, 0, [VERSION])
    assert len(read_late(folder)) == 1
    assert read_quarantine(folder).is_empty()


def test_late_rows_of_two_partitions_do_not_share_files(folder: Path) -> None:
    for partition in ODD_PARTITIONS:
        shard_files(folder).write_rows(LATE, partition, 2, late_rows(2))
    assert len(read_late(folder)) == len(ODD_PARTITIONS)


def test_the_taken_method_returns_each_written_file_once(folder: Path) -> None:
    shard_0 = shard_files(folder)
    shard_0.write_forecasts(issued_forecasts())
    shard_0.write_rows(LATE, "replay", 2, late_rows(2))
    taken = shard_0.taken()
    assert {path.parent.name for path in taken} == {"forecasts", "late"}
    assert all(path.exists() for path in taken)
    sync(taken)
    assert shard_0.taken() == []


# --- resuming from a snapshot ------------------------------------------------------------------------------


@pytest.fixture
def written(folder: Path) -> Path:
    """Return an output folder to which shard 0 wrote forecasts, late rows and rejected rows.

    The forecasts are of three blocks; the late and the rejected rows are of two partitions.
    """
    shard_0 = shard_files(folder)
    for start in (0, 4, 8):
        shard_0.write_forecasts(issued_forecasts(start=START + start))
    for partition, start in (("replay", 3), ("replay", 7), ("folder", 2)):
        shard_0.write_rows(QUARANTINE, partition, start, rejected_rows(start))
        shard_0.write_rows(LATE, partition, start, late_rows(start))
    return folder


def test_remove_after_removes_files_written_after_the_snapshot(written: Path) -> None:
    shard_files(written).remove_after((START + 8) * HOUR_US, {"replay": 7, "folder": 3}, 0, [VERSION])
    assert sorted(path.name[:16] for path in (written / "forecasts").iterdir()) == [
        "20130101T010000Z", "20130101T050000Z",
    ]  # fmt: skip
    for part in (QUARANTINE, LATE):
        names = {path.name.partition("-shard")[0] for path in (written / part).iterdir()}
        assert names == {"replay-000000000000003", "folder-000000000000002"}


def test_remove_after_an_empty_snapshot_keeps_older_files(written: Path) -> None:
    before = sorted(written.rglob("*"))
    for path in before:
        os.utime(path, ns=(5, 5))
    shard_files(written).remove_after(None, {}, snapshot_ns=6, versions=[VERSION])
    assert sorted(written.rglob("*")) == before


def test_files_newer_than_snapshot_without_closed_windows_are_removed(written: Path) -> None:
    shard_files(written).remove_after(None, {}, snapshot_ns=0, versions=[VERSION])
    assert not [path for path in written.rglob("*") if path.is_file()]


def test_remove_after_keeps_files_of_other_shards_and_models(written: Path) -> None:
    before = sorted(written.rglob("*"))
    shard_files(written, 1).remove_after(START * HOUR_US, {"replay": 0, "folder": 0}, 0, [VERSION])
    ShardFiles(written, 0, 3, "parquet").remove_after(
        START * HOUR_US, {"replay": 0, "folder": 0}, 0, [VERSION]
    )
    read = {"replay": 99, "folder": 99}
    shard_files(written).remove_after(START * HOUR_US, read, 0, [forecaster(seed=1).version])
    assert sorted(written.rglob("*")) == before


def revised_forecasts(revision: int, level: float) -> Forecasts:
    forecasts = issued_forecasts(windows=2, level=level)
    return replace(forecasts, revision=np.full(forecasts.issued.shape, revision))


@FORMATS
def test_the_newest_revision_of_a_forecast_is_read(folder: Path, format_: Format) -> None:
    shard_0 = shard_files(folder, format_=format_)
    shard_0.write_forecasts(revised_forecasts(2, 50.0), late=RowPlace("a-r1-b", 9))
    shard_0.write_forecasts(revised_forecasts(1, 20.0), late=RowPlace("a-r1-b", 7))
    shard_0.write_forecasts(issued_forecasts())
    read = check_forecasts(read_forecasts(folder))
    assert read.sort("issued_at")["revision"].to_list() == [2] * 4 + [0] * 4
    assert read.filter(pl.col("revision") == 2).equals(revised_forecasts(2, 50.0).frame())
    every = read_forecasts(folder, all_revisions=True)
    assert sorted(every["revision"]) == [0] * 8 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("partition", ["replay", "a-r1-b"])
def test_remove_after_deletes_revisions_from_the_given_offsets_on(folder: Path, partition: str) -> None:
    for offset in (6, 7, 8):
        late = RowPlace(partition, offset)
        shard_files(folder).write_forecasts(revised_forecasts(1, 0.0), late=late)
        shard_files(folder).write_replaced(revised_forecasts(1, 0.0), late_rows(offset), late)
    shard_files(folder).remove_after((START + 8) * HOUR_US, {partition: 7}, 0, [VERSION])
    for part in ("forecasts", "replaced"):
        (kept,) = (folder / part).iterdir()
        assert f"-r1-{partition}-000000000000006-shard-0000" in kept.name


@FORMATS
def test_remove_after_removes_half_written_temporary_files(folder: Path, format_: Format) -> None:
    shard_0 = shard_files(folder, format_=format_)
    shard_0.write_forecasts(issued_forecasts())
    shard_0.write_rows(LATE, "replay", 2, late_rows(2))
    before = sorted(folder.rglob("*"))
    for path in shard_0.taken():
        path.with_name(f".{path.name}").write_bytes(b"half")
    shard_0.remove_after((START + 8) * HOUR_US, {"replay": 7}, 0, [VERSION])
    assert sorted(folder.rglob("*")) == before


# --- refusals ----------------------------------------------------------------------------------------------


def test_read_forecasts_refuses_a_folder_without_forecasts(folder: Path) -> None:
    for empty in (folder, folder / "nowhere"):
        with pytest.raises(DataError, match="no forecasts here"):
            read_forecasts(empty)


@pytest.mark.parametrize(("part", "read"), [(LATE, read_late), (QUARANTINE, read_quarantine)])
def test_an_error_names_an_unreadable_late_or_quarantine_file(
    folder: Path, part: str, read: Callable[[Path], pl.DataFrame]
) -> None:
    (folder / part / "mine.parquet").write_text("neither\nthis\n")
    with pytest.raises(DataError, match=rf"mine\.parquet: not a readable file of {part}") as caught:
        read(folder)
    assert "\n" not in str(caught.value)


@FORMATS
def test_the_error_names_an_unreadable_file_of_forecasts(folder: Path, format_: Format) -> None:
    (folder / "forecasts" / f"mine.{format_}").write_text("neither\nthis\n")
    with pytest.raises(DataError, match=rf"mine\.{format_}: not a readable file of forecasts") as caught:
        read_forecasts(folder)
    assert "\n" not in str(caught.value)


def test_writing_forecasts_to_a_full_disk_raises_output_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sinks, "write_frame", disk_full)
    with pytest.raises(OutputError, match=r"shard-0000-of-0002\.parquet: cannot be written \(No space left"):
        write_forecasts(folder, 0)
