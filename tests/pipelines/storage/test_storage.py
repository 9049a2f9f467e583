"""Tests of operations on folders that may be on a disk, in memory, or on an S3 server."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.storage import (
    Journal,
    Location,
    OwnedFile,
    Remote,
    location,
    markers,
    store_of,
    sync,
    write_text,
    write_to,
    write_whole,
)
from schemas.errors import ConfigError, OutputError


def test_written_files_can_be_read_from_disk_or_store(place: Location) -> None:
    file, frame = place / "a.parquet", pl.DataFrame({"x": [1, 2]})
    store_of(place).make_folder()
    write_whole(file, frame.write_parquet, kept=True)
    write_text(place / "b.txt", "été")
    assert pl.read_parquet(store_of(file).source()).equals(frame)
    assert (place / "b.txt").read_text() == "été"
    with file.open("rb") as opened:
        assert opened.read() == file.read_bytes()
    (listed,) = place.glob("a.*")
    assert store_of(listed).written_ns() > 1_000_000_000 * 10**9
    sync([file])


def test_write_whole_keeps_the_old_file_when_interrupted(place: Location) -> None:
    file = place / "a.txt"
    write_text(file, "before")

    def write_half(target: Any) -> None:
        (target.write if not isinstance(target, Path) else target.write_bytes)(b"half of")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(file, write_half)
    assert file.read_text() == "before"


def test_glob_lists_existing_matching_files_on_disk_or_store(place: Location) -> None:
    assert list(place.glob("*")) == []
    for name in ("b.x", "a.x", "c.y"):
        write_text(place / name, name)
    store_of(place / "below").make_folder()
    write_text(place / "below" / "d.x", "d")
    assert sorted(path.name for path in place.glob("*.x")) == ["a.x", "b.x"]
    (place / "a.x").unlink()
    assert [path.name for path in place.glob("*.x")] == ["b.x"]
    assert list((place / "nowhere").glob("*")) == []
    assert not (place / "a.x").exists()
    (place / "a.x").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (place / "a.x").read_bytes()


def test_remove_tree_removes_one_folder_and_not_its_neighbours(place: Location) -> None:
    for name in ("tree", "tree2"):
        store_of(place / name / "below").make_folder()
        write_text(place / name / "below" / "x", "x")
    store_of(place / "tree").remove_tree()
    store_of(place / "nowhere").remove_tree()
    assert list((place / "tree" / "below").glob("*")) == []
    assert [path.name for path in (place / "tree2" / "below").glob("*")] == ["x"]


def test_records_of_a_journal_are_read_in_order(place: Location) -> None:
    for number in (1, 2):
        Journal(place / "lines").add({"n": number})
    assert [*Journal(place / "lines").records()] == [(1, {"n": 1}), (2, {"n": 2})]
    Journal(place / "lines").replace([{"n": 3}])
    assert [*Journal(place / "lines").records()] == [(1, {"n": 3})]


def test_s3_journal_writes_small_objects_and_merges_them(s3: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.storage.journal.MERGED_AT", 12)
    journal = Journal(s3 / "lines.jsonl")
    sizes: list[int] = []
    for number in range(24):
        before = {one.url for one in s3.glob("*")}
        journal.add({"n": number, "text": "x" * 100}, {"n": -number})
        sizes += [len(one.read_bytes()) for one in s3.glob("*") if one.url not in before]
    # Each call of `add` writes a small object; only the object into which all records are merged is large.
    assert max(sorted(sizes)[:-1]) < 1000
    assert len(list(s3.glob("*"))) <= 12
    found = [record["n"] for _, record in Journal(s3 / "lines.jsonl").records()]
    assert found == [n for number in range(24) for n in (number, -number)]


def test_merged_journal_records_are_read_once_after_a_crash(s3: Remote) -> None:
    journal = Journal(s3 / "lines")
    journal.add({"n": 1})
    part = next(iter(s3.glob("lines-*")))
    data = part.read_bytes()
    journal.replace([{"n": 1}, {"n": 2}])
    part.write_bytes(data)  # restore the small file, as if a crash had prevented its deletion
    again = Journal(s3 / "lines")
    assert [*again.records()] == [(1, {"n": 1}), (2, {"n": 2})]
    again.add({"n": 3})
    assert [record["n"] for _, record in Journal(s3 / "lines").records()] == [1, 2, 3]


def test_a_journal_copied_from_s3_to_a_disk_can_be_continued(
    s3: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.storage.journal.MERGED_AT", 12)
    for number in range(14):
        Journal(s3 / "lines.jsonl").add({"n": number})
    for one in s3.glob("*"):
        (tmp_path / one.name).write_bytes(one.read_bytes())
    Journal(tmp_path / "lines.jsonl").add({"n": -1})
    assert [path.name for path in tmp_path.iterdir()] == ["lines.jsonl"]
    found = [record["n"] for _, record in Journal(tmp_path / "lines.jsonl").records()]
    assert found == [*range(14), -1]


def test_a_location_acts_like_a_path_and_is_picklable(place: Location) -> None:
    file = place / "state" / "shard.parquet"
    assert (file.name, file.suffix, file.parent.name) == ("shard.parquet", ".parquet", "state")
    assert file.with_name("other") == place / "state" / "other"
    assert pickle.loads(pickle.dumps(file)) == file  # noqa: S301
    assert str(file).startswith(str(place))


def test_a_read_is_repeated_if_the_folder_was_replaced_meanwhile(s3: Remote) -> None:
    seen: list[str] = []
    write_text(s3 / "state" / "x", "old")
    hidden = s3 / ".state.new"
    write_text(hidden / "state" / "x", "new")

    def read(folder: Location) -> str:
        seen.append(folder.name if folder == s3 / "state" else "hidden")
        if len(seen) == 1:
            write_text(s3 / ".state.new.json", '{"id": "1", "parts": ["state"]}')
        return (folder / "x").read_text()

    assert store_of(s3 / "state").read_consistently(read) == "new"
    assert seen == ["state", "hidden"]


# --- paths and URLs ----------------------------------------------------------------------------------------


def test_location_returns_a_remote_for_urls_and_else_a_path(s3: Remote) -> None:
    assert location("out/x") == Path("out/x")
    assert location(f"{s3}/") == s3


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("ftp://host/out", "ftp://: not a store that a job can write to: name a folder, or s3://, gs://"),
        ("s3://key:secret@bucket/out", "s3://: no credentials in a URL: they belong in the environment"),
        ("s3://bucket", "s3://bucket: names a bucket alone: add a prefix, such as s3://bucket/out"),
        ("gs://bucket/out", "gs:// needs one more package: pip install gcsfs"),
    ],
)
def test_unusable_urls_are_refused_without_showing_the_secret(url: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        location(url)
    assert str(caught.value).startswith(line)
    assert "secret" not in str(caught.value)


def test_writing_to_a_missing_bucket_raises_a_one_line_error(bucket: Remote) -> None:
    from pipelines.storage import store_of

    nowhere = Remote("s3://no-such-bucket/out")
    line = "s3://no-such-bucket/out: cannot write here .*bucket does not exist.*: name another folder"
    with pytest.raises(OutputError, match=line):
        store_of(nowhere).check_writable()
    with pytest.raises(OutputError, match=line), store_of(nowhere).locked():
        pass


def test_writing_to_s3_without_credentials_raises_a_one_line_error(
    s3: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    from pipelines.storage import store_of

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(OutputError) as caught:
            store_of(s3).check_writable()
    finally:
        monkeypatch.undo()
        s3fs.S3FileSystem.clear_instance_cache()
    assert str(caught.value) == f"{s3}: cannot write here (Unable to locate credentials): name another folder"


# --- files with an owner -----------------------------------------------------------------------------------


def test_a_file_is_replaced_repeatedly_but_only_while_owned(place: Location) -> None:
    file = OwnedFile(place / "mark")
    for text in (b"one", b"two"):
        assert file.write(partial(write_to, data=text), lambda: True)
        assert (place / "mark").read_bytes() == text
    again = OwnedFile(place / "mark")
    assert again.write(partial(write_to, data=b"three"), lambda: True)
    assert not again.write(partial(write_to, data=b"four"), lambda: False)
    assert (place / "mark").read_bytes() == b"three"


@pytest.mark.parametrize("exists", [True, False])
def test_an_owner_suspended_after_its_check_overwrites_no_file(s3: Remote, exists: bool) -> None:
    path = s3 / "mark"
    if exists:
        path.write_bytes(b"before")
    suspended = OwnedFile(path)
    checks = iter([True, False])

    def check_and_sleep() -> bool:
        is_first = next(checks)
        if is_first:  # another owner writes the file between the check and the write
            assert OwnedFile(path).write(partial(write_to, data=b"successor"), lambda: True)
        return is_first

    assert not suspended.write(partial(write_to, data=b"suspended"), check_and_sleep)
    assert path.read_bytes() == b"successor"


def test_an_owner_overwrites_its_file_after_another_writer_changed_it(s3: Remote) -> None:
    owner = OwnedFile(s3 / "mark")
    assert owner.write(partial(write_to, data=b"one"), lambda: True)
    (s3 / "mark").write_bytes(b"earlier owner")
    assert owner.write(partial(write_to, data=b"two"), lambda: True)
    assert (s3 / "mark").read_bytes() == b"two"
    (s3 / "mark").unlink()
    assert owner.write(partial(write_to, data=b"three"), lambda: True)


def test_a_large_object_is_replaced_only_if_its_version_is_unchanged(s3: Remote) -> None:
    version = s3.replace(bytes(101 << 20), "")
    assert version
    assert s3.replace(b"other", "") is None
    assert s3.replace(bytes(102 << 20), "0" * 32) is None
    assert s3.replace(b"other", version)


def test_replacing_an_object_in_a_missing_bucket_raises_an_error(s3: Remote) -> None:
    with pytest.raises(OSError, match="bucket"):
        Remote("s3://no-such-bucket/out/mark").replace(b"", "")


# --- operations on output folders --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state", "old-state"])
def test_replace_parts_replaces_old_folders_with_hidden_new_folders(place: Location, name: str) -> None:
    hidden = f".{name}.new"
    for folder, file in ((place / name, "old"), (place / hidden / name, "new")):
        store_of(folder).make_folder()
        write_text(folder / file, file)
    store_of(place).replace_parts(hidden, [name])
    assert [path.name for path in (place / name).glob("*")] == ["new"]
    assert not any((place / hidden / name).glob("*"))


def test_complete_replacement_replaces_a_part_named_old_state(tmp_path: Path) -> None:
    """A replaced part "state" is kept as "old-state", but here "old-state" is the name of a new part."""
    hidden = tmp_path / ".old-state.new"
    write_text_in(hidden / "old-state" / "x", "new")
    write_text_in(hidden / "old-old-state" / "x", "old")
    write_text(hidden / "complete", "")
    store_of(tmp_path).complete_replacement(hidden.name)
    assert (tmp_path / "old-state" / "x").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["old-state"]


def write_text_in(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_complete_replacement_removes_incomplete_new_parts_and_keeps_old_parts(place: Location) -> None:
    for folder, file in ((place / "state", "old"), (place / ".state.new" / "state", "new")):
        store_of(folder).make_folder()
        write_text(folder / file, file)
    store_of(place).complete_replacement(".state.new")
    assert [path.name for path in (place / "state").glob("*")] == ["old"]
    assert not any((place / ".state.new" / "state").glob("*"))


def test_a_copy_of_a_folder_has_all_files_except_hidden_ones(place: Location) -> None:
    store_of(place / "state").make_folder()
    for name in ("a", "b", ".c"):
        write_text(place / "state" / name, name)
    copy = store_of(place / "state").copy_beside("copy", lambda name: name == "b")
    assert copy == place / "copy"
    assert {path.name: path.read_text() for path in copy.glob("*")} == {"a": "a", "b": "b"}


def test_only_one_job_at_a_time_holds_the_output_lock(place: Location) -> None:
    for _ in range(2):
        with store_of(place).locked():
            assert any(place.glob(markers.ANY_LOCK))
            with pytest.raises(OutputError, match="another job, process"), store_of(place).locked():
                pass
    assert store_of(place).check_writable() is None or isinstance(place, Path)
