"""Tests of the functions that replace a file or move a folder; a crash leaves no half-written file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import polars as pl
import pytest

from forecaster.durable import move_whole, write_bytes, write_whole


def test_write_whole_keeps_the_earlier_file_if_the_writer_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail(hidden: Path) -> None:
        hidden.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_into_a_missing_folder_raises_the_plain_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        write_whole(tmp_path / "none" / "file", pl.DataFrame({"a": [1]}).write_csv)
    assert raised.value.strerror == "No such file or directory"


def test_a_writer_that_is_no_longer_the_owner_writes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert not write_whole(path, lambda hidden: hidden.write_bytes(b"new"), is_ours=lambda: False)
    assert list(tmp_path.iterdir()) == []


def test_write_whole_keeps_the_permissions_of_a_replaced_file(tmp_path: Path) -> None:
    path = tmp_path / "secret.toml"
    write_bytes(path, b"old")
    path.chmod(0o600)

    def write(hidden: Path) -> None:
        assert stat.S_IMODE(hidden.stat().st_mode) == 0o600
        hidden.write_bytes(b"new")

    assert write_whole(path, write)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o600)


def test_writing_to_a_symbolic_link_replaces_its_target_file(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("elsewhere/file")
    write_bytes(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"new"
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


def test_write_bytes_writes_to_a_pipe_without_replacing_the_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_bytes(pipe, b"text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_move_whole_moves_a_folder_with_its_files(tmp_path: Path) -> None:
    made = tmp_path / "made"
    (made / "below").mkdir(parents=True)
    (made / "below" / "file").write_bytes(b"x")
    (made / "link").symlink_to("nowhere")
    move_whole(made, tmp_path / "target")
    assert (tmp_path / "target" / "below" / "file").read_bytes() == b"x"
    assert not made.exists()
