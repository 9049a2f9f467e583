"""Tests of reading damaged files of an earlier job, such as manifests, journals, snapshots and locks.

Reading such a file raises a `StatecastError` or no error, and never another exception. Several tests
also assert that the error has one line, and that a read without an error returns no changed content.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
import pytest

from forecaster.shards import snapshot
from pipelines.runners import engine
from pipelines.sinks import numbers
from pipelines.sinks.numbers import ShardNumbers
from pipelines.sources.kafka.decision_journal import Decisions
from pipelines.sources.manifest import Entry, FolderManifest, check_replay
from pipelines.state import state_file, state_table
from pipelines.storage import (
    BACKFILL,
    Journal,
    complete_replacement,
    markers,
    replace_parts,
    store_of,
    write_text,
)
from pipelines.workers import failure, ownership
from schemas.errors import EngineError, ModelError, OutputError
from schemas.sealed import seal, unseal
from tests.damaged import as_json, flipped, line_of, mistyped, torn
from tests.shards import assert_equal, shards_after_five_windows
from tests.stores import in_memory

T = TypeVar("T")
ENTRIES = [
    Entry(f"{n}.csv", 10, n, n * 5, n * 5 + 5, 1.5, n * 60, "" if n else "is broken") for n in range(3)
]


def damaged(whole: bytes) -> Iterator[bytes]:
    """Yield damaged copies of a file: cut off, half zeros, with one bit flipped, or with other content."""
    yield from torn(whole)
    yield from (data for _, data in flipped(whole, random.Random(3), 200))
    yield from (b"\xff\xfe", b"null", b"[1]", b"{}", b"{}\n", b"[[[[", b"\n", b"{" * 100_000)


def assert_as_written_or_refused(path: Path, whole: bytes, read: Callable[[], T], written: list[T]) -> int:
    """Damage a file in many ways; assert that ``read`` refuses each copy or returns a value in ``written``.

    Refused means an error of one line that names the file.
    Returns how many of the damaged copies were refused.
    """
    refused = 0
    for data in damaged(whole):
        path.write_bytes(data)
        found: list[T] = []
        line = line_of(read, found)
        if line is None:
            assert found[0] in written, data
        else:
            assert line.startswith(f"{path}: "), line
            assert "\n" not in line
            refused += 1
    return refused


@pytest.fixture
def rows(tmp_path: Path) -> str:
    (tmp_path / "rows.csv").write_text("a")
    return str(tmp_path / "rows.csv")


def test_damaged_checksummed_replay_manifest_is_refused_or_read_unchanged(tmp_path: Path, rows: str) -> None:
    path = tmp_path / "state" / "replay.json"
    check_replay(path, [rows], "how", 0, 12.5)
    whole = path.read_bytes()
    assert (
        assert_as_written_or_refused(path, whole, lambda: check_replay(path, [rows], "how", 1, 0.0), [12.5])
        > 150
    )
    record = unseal(whole)
    for other in mistyped(record):
        # Write the file without a checksum, as earlier versions of Statecast did.
        path.write_bytes(as_json(other))
        line = line_of(lambda: check_replay(path, [rows], "how", 1, 0.0), [])
        assert line is not None or other["now_s"] in (True, -1), other
    path.write_bytes(as_json(record))
    assert check_replay(path, [rows], "how", 1, 0.0) == 12.5


def test_reading_damaged_folder_manifests_raises_or_omits_last_entries(tmp_path: Path) -> None:
    path = tmp_path / "folder.jsonl"
    for entry in ENTRIES:
        FolderManifest(path).add(entry)
    whole = path.read_bytes()

    def read() -> list[Entry]:
        return [*FolderManifest(path).entries(0)]

    # The reader ignores an incomplete last line, so it may return fewer entries.
    written = [ENTRIES[:count] for count in range(len(ENTRIES) + 1)]
    assert assert_as_written_or_refused(path, whole, read, written) > 150
    for other in mistyped(asdict(ENTRIES[0])):
        path.write_bytes(as_json(other) + b"\n")
        line = line_of(read, [])
        assert line is None or line.startswith(f"{path}: line 1")
        assert line is not None or other.keys() == asdict(ENTRIES[0]).keys() or "problem" not in other
    path.write_bytes(b"".join(as_json(asdict(entry)) + b"\n" for entry in ENTRIES))
    assert read() == ENTRIES


def test_damaged_kafka_journals_are_refused_or_lose_only_last_entries(tmp_path: Path) -> None:
    path = tmp_path / "kafka.jsonl"
    for offset, us in ((0, 5), (7, 9)):
        Decisions(path).raise_watermark("t-0", offset, us)
    whole = path.read_bytes()

    def read() -> list[int | None]:
        decisions = Decisions(path)
        return [decisions.at("t-0", offset, None) for offset in (0, 7)]

    assert assert_as_written_or_refused(path, whole, read, [[5, 9], [5, 5], [None, None]]) > 150
    for other in mistyped({"partition": "t-0", "offset": 0, "watermark_us": 5}):
        path.write_bytes(as_json(other) + b"\n")
        line = line_of(read, [])
        assert line is None or line.startswith(f"{path}: cannot be read (line 1")


def test_damaged_snapshot_metadata_raises_no_error_or_a_one_line_error() -> None:
    table = snapshot.to_arrow(shards_after_five_windows(1)[0])
    for key in (b"statecast.shard", b"statecast.state.layout"):
        for other in mistyped(json.loads(table.schema.metadata[key])):
            changed = {**table.schema.metadata, key: as_json(other)}
            del changed[b"statecast.crc32"]  # snapshots of earlier versions have no checksum
            for rows in (table, table.schema.empty_table()):
                one = rows.replace_schema_metadata(changed)
                line = line_of(lambda one=one: snapshot.from_arrow(one), [])  # type: ignore[misc]
                assert line is None or "\n" not in line


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"counts": {"rows_in": 1, "novel": 2}}, "counts.novel is unknown to this version"),
        ({"counts": {"rows_in": "1"}}, "counts.rows_in is '1', not a whole number of 0 or more"),
        ({"counts": {"quarantined": {"late": "x"}}}, "counts.quarantined.late: "),
        ({"offsets": {"rows": -1}}, "offsets.rows: "),
        ({"closed_through": "soon"}, "closed_through: "),
        ({"novel": 1}, "novel: "),
    ],
)
def test_an_invalid_entry_of_a_snapshot_is_refused(change: dict[str, Any], line: str) -> None:
    table = snapshot.to_arrow(shards_after_five_windows(1)[0])
    rest = json.loads(table.schema.metadata[b"statecast.shard"]) | change
    metadata = {**table.schema.metadata, b"statecast.shard": as_json(rest)}
    del metadata[b"statecast.crc32"]
    with pytest.raises(ModelError) as caught:
        snapshot.from_arrow(table.replace_schema_metadata(metadata))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_exported_table_is_refused_or_read_unchanged(tmp_path: Path) -> None:
    table, file = tmp_path / "table", tmp_path / "table.parquet"
    state_table.write(table, shards_after_five_windows(2))
    write_text(table / "folder.jsonl", "{}\n")
    state_file.pack(table, file)
    whole, series = file.read_bytes(), len(state_table.read(table).state)

    def read() -> int:
        return state_file.unpack(file, tmp_path / "again")

    assert assert_as_written_or_refused(file, whole, read, [series]) > 100
    metadata = pq.read_table(file).schema.metadata if file.write_bytes(whole) else {}
    for other in mistyped(unseal(metadata[b"statecast.table"])):
        changed = {**metadata, b"statecast.table": as_json(other)}
        del changed[b"statecast.checksum"]
        file.write_bytes(whole)
        pq.write_table(pq.read_table(file).replace_schema_metadata(changed), file)
        line = line_of(read, [])
        assert line is None or (line.startswith(f"{file}: ") and "\n" not in line)


def test_read_owner_raises_nothing_for_a_damaged_owner_file(tmp_path: Path) -> None:
    path = tmp_path / ".run"
    write_text(path, "b" * 32)
    assert (
        assert_as_written_or_refused(
            path, path.read_bytes(), lambda: ownership.read_owner(tmp_path) is None, [True, False]
        )
        == 0
    )


def test_a_damaged_worker_error_file_gives_output_or_engine_error(tmp_path: Path) -> None:
    raised = OutputError("out: the disk is full")
    with pytest.raises(OutputError), failure.store_worker_error(tmp_path):
        raise raised
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for data in (*damaged(whole), *map(as_json, mistyped({"kind": "OutputError", "line": "x"}))):
        path.write_bytes(data)
        found = failure.error_to_report(tmp_path, RuntimeError("what the engine says"))
        assert isinstance(found, (OutputError, EngineError))
    path.write_bytes(whole)
    assert str(failure.error_to_report(tmp_path, RuntimeError())) == str(raised)


def test_reading_damaged_counts_of_a_shard_raises_no_error(tmp_path: Path) -> None:
    one = ShardNumbers(0, shards_after_five_windows(1)[0].counts, 60, None, {"rows": 3}, 5, 5, 100)
    numbers.publish(tmp_path, one)
    (path,) = (tmp_path / markers.NUMBERS).iterdir()
    whole = path.read_bytes()
    assert numbers.read_shards(tmp_path) == [one]
    for data in (*damaged(whole), *map(as_json, mistyped(json.loads(whole)))):
        path.write_bytes(data)
        numbers.JobNumbers.of(numbers.read_shards(tmp_path)).as_json(0.0)
        numbers.applied(tmp_path, 1)


def test_ending_orphaned_engines_skips_a_damaged_engine_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "statecast" / "run"
    folder.mkdir(parents=True)
    path = folder / f"engine-{2**22 + 1}.json"
    record = {"engine": [2**22 + 1, 1.0], "owner": [2**22 + 2, 1.0]}
    for data in (*damaged(as_json(record)), *map(as_json, mistyped(record))):
        path.write_bytes(data)
        assert engine.end_orphans() == []


def test_completing_a_replacement_with_damaged_manifest_keeps_output_files() -> None:
    with in_memory() as store:
        (store / BACKFILL / "late" / "x").write_bytes(b"1")
        replace_parts(store / BACKFILL, store, ["late"])
        manifest = store / f"{BACKFILL}.json"
        whole = manifest.read_bytes()
        others = (as_json(other) for other in mistyped({"id": "1", "parts": ["late"]}))
        for data in (*damaged(whole), *others):
            manifest.write_bytes(data)
            line = line_of(lambda: complete_replacement(store / BACKFILL, store), [])
            assert line is None or line.startswith(f"{manifest}: ")
            assert (store / "late" / "x").read_bytes() == b"1"


def test_an_object_store_with_a_damaged_lock_refuses_jobs() -> None:
    with in_memory() as store:
        lock = store / ".lock-000001"
        identity = {"host": "h", "machine": "m", "pid": 1, "started_after_boot_s": 1.0, "since": "then"}
        for data in (*damaged(as_json(identity)), *map(as_json, mistyped(identity))):
            lock.write_bytes(data)

            def take() -> None:
                with store_of(store).locked():
                    pass

            line = line_of(take, [])
            assert line is not None
            assert "another job" in line
        (store / ".lock-mine").write_bytes(b"")
        assert line_of(take, []) is not None


def test_a_journal_accepts_records_after_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "lines")
    journal.add({"n": 1})

    def fail_to_sync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", fail_to_sync)
        with pytest.raises(OSError, match="No space left"):
            journal.add({"n": 2})
    journal.add({"n": 3})
    assert [record for _, record in journal.records()] == [{"n": 1}, {"n": 3}]


def test_unsealing_a_sealed_record_restores_the_record() -> None:
    record = {"b": [1.5, None, "é"], "a": {"2": 3}}
    assert unseal(seal(record)) == record


def test_unpack_restores_the_shard_that_pack_exported(tmp_path: Path) -> None:
    (shard,) = shards_after_five_windows(1)
    state_table.write(tmp_path / "table", [shard])
    state_file.pack(tmp_path / "table", tmp_path / "file")
    state_file.unpack(tmp_path / "file", tmp_path / "again")
    assert_equal(state_table.read(tmp_path / "again").shards[0], shard)
