from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from pipelines.cli import settings
from pipelines.cli.app import app, run
from pipelines.settings.config import JobConfig
from tests.pipelines.cli.conftest import ROOT

COMMANDS = (
    "demo",
    "init",
    "train",
    "backfill",
    "stream",
    "cold-start",
    "evaluate",
    "promote",
    "ui",
    "doctor",
)


def test_help_answers_at_once_for_it_imports_nothing_that_takes_long() -> None:
    """What is imported decides, and is the same on every machine; a second would not be."""
    command = [sys.executable, "-X", "importtime", "-m", "pipelines.cli", "--help"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(command in told.stdout for command in COMMANDS)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in told.stderr.splitlines()}
    assert {"typer", "pipelines"} <= imported
    heavy = {
        "apache_beam",
        "matplotlib",
        "mlflow",
        "numpy",
        "pandas",
        "pandera",
        "polars",
        "pydantic",
        "torch",
    }
    assert not imported & heavy


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
        for key, flag in settings.FLAGS.items():
            if flag in shown and isinstance(shown[flag], str):
                assert str(defaults[key]).removesuffix(".0") == shown[flag], f"{name} {flag}"
