from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import typer

from pipelines.cli import options
from pipelines.cli.app import app, run
from pipelines.config import JobConfig
from tests.pipelines.cli.conftest import ROOT

COMMANDS = ("demo", "init", "train", "backfill", "stream", "evaluate", "promote", "ui", "doctor")


def test_help_answers_in_less_than_a_second() -> None:
    """Of processor time, at best of three: on a machine that is shared, the clock on the wall is others'."""
    spent_s = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "pipelines.cli", "--help"]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert all(command in told.stdout for command in COMMANDS)
    assert min(spent_s) < 1.0


def test_without_a_command_there_is_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert "Usage: statecast" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does_and_what_each_option_is_for(command: str) -> None:
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    assert len(found.help.split()) >= 8
    assert all(param.help for param in found.params if param.name != "help")
    if command not in ("demo", "init", "ui"):
        assert "Example: statecast" in found.help or command == "doctor"
    assert "json" in " ".join(option for param in found.params for option in param.opts)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_can_be_read(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "-h"]) == 0
    told = capsys.readouterr()
    assert f"Usage: statecast {command}" in told.out
    assert told.err == ""


def test_defaults_in_the_help_are_those_of_the_job_file() -> None:
    defaults = JobConfig().flat()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        shown = {option: param.show_default for param in command.params for option in param.opts}
        for key, flag in options.FLAGS.items():
            if flag in shown and isinstance(shown[flag], str):
                assert str(defaults[key]).removesuffix(".0") == shown[flag], f"{name} {flag}"
