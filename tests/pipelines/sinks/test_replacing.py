from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pipelines.sinks.replace_output import end_replacing, replace_parts
from schemas.errors import OutputError

PARTS = ("forecasts", "late", "state")
OLD = {"forecasts": "old", "state": "old"}  # an earlier job had no late rows
NEW = dict.fromkeys(PARTS, "new")
RENAMES = 5  # two parts away, three in


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it is done."""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    make(tmp_path / "out", OLD)
    make(tmp_path / "out" / ".hidden", NEW)
    (tmp_path / "out" / "mine.txt").write_text("not a job's")
    return tmp_path / "out"


def make(folder: Path, parts: dict[str, str]) -> None:
    for part, text in parts.items():
        (folder / part / "deep").mkdir(parents=True)
        (folder / part / "deep" / "file").write_text(text)


def found(output: Path) -> dict[str, str]:
    """What every part holds; whatever else is there must be what was."""
    assert (output / "mine.txt").read_text() == "not a job's"
    parts = sorted(path.name for path in output.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {part: (output / part / "deep" / "file").read_text() for part in parts}


def failing(monkeypatch: pytest.MonkeyPatch, *at: int, error: BaseException, after: bool = False) -> None:
    """Has the renames with these numbers fail, before or after they are done."""
    real, made = os.replace, 0

    def rename(source: Any, target: Any) -> None:
        nonlocal made
        if Path(target).name == "complete":  # the mark, which a rename puts in place, too
            real(source, target)
            return
        made += 1
        if made - 1 in at and not after:
            raise error
        real(source, target)
        if made - 1 in at:
            raise error

    monkeypatch.setattr(os, "replace", rename)


def test_all_parts_are_replaced_and_nothing_else(output: Path) -> None:
    replace_parts(output / ".hidden", output, PARTS)
    assert found(output) == NEW
    assert not (output / ".hidden").exists()


@pytest.mark.parametrize("at", range(RENAMES))
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_rename_that_fails_leaves_all_as_it_was(
    output: Path, at: int, after: bool, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, at, error=error, after=after)
    with pytest.raises((OutputError, KeyboardInterrupt)) as told:
        replace_parts(output / ".hidden", output, PARTS)
    assert isinstance(error, KeyboardInterrupt) or str(told.value).endswith(
        "out: cannot be put in place (Input/output error)"
    )
    assert found(output) == OLD
    end_replacing(output / ".hidden", output)  # as the job does in the end
    assert found(output) == OLD
    assert not (output / ".hidden").exists()


@pytest.mark.parametrize("at", range(1, RENAMES))
def test_an_undo_that_is_interrupted_too_is_ended_the_other_way(
    output: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, at, at + 1, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        replace_parts(output / ".hidden", output, PARTS)
    end_replacing(output / ".hidden", output)
    assert found(output) == NEW
    assert not (output / ".hidden").exists()


@pytest.mark.parametrize("at", range(RENAMES + 1))
def test_a_job_that_dies_among_its_renames_is_ended_by_the_next(
    output: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (output / ".hidden" / "complete").write_text("\n".join(PARTS))
    failing(monkeypatch, at, error=Killed())
    with pytest.raises(Killed) if at < RENAMES else nullcontext():
        end_replacing(output / ".hidden", output)
    monkeypatch.undo()
    end_replacing(output / ".hidden", output)
    assert found(output) == NEW
    assert not (output / ".hidden").exists()


def test_what_was_not_complete_is_taken_away(output: Path) -> None:
    end_replacing(output / ".hidden", output)
    assert found(output) == OLD
    assert not (output / ".hidden").exists()
    end_replacing(output / ".hidden", output)
    assert found(output) == OLD


def test_an_empty_mark_deletes_neither_old_nor_new_parts(output: Path) -> None:
    """Earlier versions did not sync the mark ``complete``, so a loss of power could leave it empty."""
    hidden = output / ".hidden"
    (hidden / "complete").write_text("")
    os.replace(output / "forecasts", hidden / "old-forecasts")
    end_replacing(hidden, output)
    assert found(output) == NEW
    assert not hidden.exists()
