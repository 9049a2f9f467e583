"""Tests of the help texts of the commands and options."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer

from pipelines.cli.app import app, run
from pipelines.settings.config import FIELDS
from tests.pipelines.cli.conftest import ROOT


def commands_of(group: Any) -> dict[str, Any]:
    """Return all commands of a group and its subgroups; each key is a full name, such as ``state export``."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= {f"{name} {inner}": one for inner, one in commands_of(command).items()}
        else:
            found[name] = command
    return found


COMMANDS = commands_of(typer.main.get_command(app))


def test_help_imports_no_slow_package() -> None:
    """The help must be fast. The test checks the imports, because the time depends on the machine."""
    command = [sys.executable, "-X", "importtime", "-m", "pipelines.cli", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(command.split()[0] in result.stdout for command in COMMANDS)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert {"typer", "pipelines"} <= imported
    heavy = {
        "apache_beam",
        "matplotlib",
        "mlflow",
        "pandas",
        "numpy",
        "pandera",
        "polars",
        "torch",
    }
    assert not imported & heavy


def test_statecast_without_a_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert "Usage: statecast" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_has_a_help_text(command: str) -> None:
    found = COMMANDS[command]
    assert len(found.help.split()) >= 8
    assert all(param.help for param in found.params if param.name != "help")
    if command not in ("demo", "init", "ui"):
        assert "Example: statecast" in found.help or command == "doctor"
    assert "json" in " ".join(option for param in found.params for option in param.opts)


@pytest.mark.parametrize("command", COMMANDS)
def test_option_h_prints_the_help_of_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "-h"]) == 0
    captured = capsys.readouterr()
    assert f"Usage: statecast {command}" in captured.out
    assert captured.err == ""


def test_options_have_the_help_and_default_of_their_settings() -> None:
    params = [*COMMANDS["train"].params, *COMMANDS["stream"].params]
    shown = {option: param.show_default for param in params for option in param.opts}
    defaults = {
        "--freq": "1h", "--cell": "lstm", "--epochs": "12", "--register": "statecast", "--speed": "0",
        "--flink-master": "[local]", "--tracking-uri": "sqlite:///mlflow.db", "--topic": False,
    }  # fmt: skip
    assert {option: shown[option] for option in defaults} == defaults
    (hidden,) = (param for param in params if "--hidden" in param.opts)
    assert hidden.help == f"N{str(FIELDS['network.hidden'].description)[1:]}."
