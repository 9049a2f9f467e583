"""Tests of the replacement of parts of an output folder on a disk, by renames that a crash may interrupt.

The new parts are first complete in a hidden folder. The file ``complete`` there marks that the renames
must be finished, even after a crash.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pipelines.storage import complete_replacement, replace_parts
from schemas.errors import OutputError

PARTS = ("forecasts", "late", "state")
# the earlier job had no late rows, so its output has no part "late"
OLD = {"forecasts": "old", "state": "old"}
NEW = dict.fromkeys(PARTS, "new")
RENAMES = 5  # two renames move the old parts of the output away, and three put the new parts in place


class Killed(BaseException):
    """The error that a rename raises to simulate SIGKILL, so that no later rename is made."""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    write_parts(tmp_path / "out", OLD)
    write_parts(tmp_path / "out" / ".hidden", NEW)
    (tmp_path / "out" / "mine.txt").write_text("not a job's")
    return tmp_path / "out"


def write_parts(folder: Path, parts: dict[str, str]) -> None:
    for part, text in parts.items():
        (folder / part / "deep").mkdir(parents=True)
        (folder / part / "deep" / "file").write_text(text)


def read_parts(output: Path) -> dict[str, str]:
    """Return the text in each part of an output; assert that ``mine.txt`` beside them is unchanged."""
    assert (output / "mine.txt").read_text() == "not a job's"
    parts = sorted(path.name for path in output.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {part: (output / part / "deep" / "file").read_text() for part in parts}


def fail_renames(
    monkeypatch: pytest.MonkeyPatch, *at: int, error: BaseException, after: bool = False
) -> None:
    """Make some calls of `os.replace` raise ``error``; ``at`` are the numbers of these calls, from 0.

    Calls that rename a marker are not counted. The calls ``at`` raise the error without a rename; if
    ``after`` is True, they rename first.
    """
    real, made = os.replace, 0

    def rename(source: Any, target: Any) -> None:
        nonlocal made
        if Path(target).name == "complete":  # do not count renames of markers, which are no parts
            real(source, target)
            return
        made += 1
        if made - 1 in at and not after:
            raise error
        real(source, target)
        if made - 1 in at:
            raise error

    monkeypatch.setattr(os, "replace", rename)


def test_replace_parts_replaces_all_parts_and_nothing_else(output: Path) -> None:
    replace_parts(output / ".hidden", output, PARTS)
    assert read_parts(output) == NEW
    assert not (output / ".hidden").exists()


@pytest.mark.parametrize("at", range(RENAMES))
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_after_a_failed_rename_the_old_output_parts_remain(
    output: Path, at: int, after: bool, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_renames(monkeypatch, at, error=error, after=after)
    with pytest.raises((OutputError, KeyboardInterrupt)) as caught:
        replace_parts(output / ".hidden", output, PARTS)
    assert isinstance(error, KeyboardInterrupt) or str(caught.value).endswith(
        "out: cannot be put in place (Input/output error)"
    )
    assert read_parts(output) == OLD
    complete_replacement(output / ".hidden", output)  # a backfill makes this call at its end
    assert read_parts(output) == OLD
    assert not (output / ".hidden").exists()


@pytest.mark.parametrize("at", range(1, RENAMES))
def test_replacing_parts_can_be_completed_after_a_failed_undo(
    output: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_renames(monkeypatch, at, at + 1, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        replace_parts(output / ".hidden", output, PARTS)
    complete_replacement(output / ".hidden", output)
    assert read_parts(output) == NEW
    assert not (output / ".hidden").exists()


@pytest.mark.parametrize("at", range(RENAMES + 1))
def test_replacing_output_parts_can_be_completed_after_a_kill(
    output: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (output / ".hidden" / "complete").write_text("\n".join(PARTS))
    fail_renames(monkeypatch, at, error=Killed())
    with pytest.raises(Killed) if at < RENAMES else nullcontext():
        complete_replacement(output / ".hidden", output)
    monkeypatch.undo()
    complete_replacement(output / ".hidden", output)
    assert read_parts(output) == NEW
    assert not (output / ".hidden").exists()


def test_new_output_parts_without_a_marker_file_are_deleted(output: Path) -> None:
    complete_replacement(output / ".hidden", output)
    assert read_parts(output) == OLD
    assert not (output / ".hidden").exists()
    complete_replacement(output / ".hidden", output)
    assert read_parts(output) == OLD


def test_an_interrupted_replacement_with_an_empty_marker_is_completed(output: Path) -> None:
    """Earlier versions did not sync the marker file ``complete``, so a power loss could leave it empty."""
    hidden = output / ".hidden"
    (hidden / "complete").write_text("")
    os.replace(output / "forecasts", hidden / "old-forecasts")
    complete_replacement(hidden, output)
    assert read_parts(output) == NEW
    assert not hidden.exists()
