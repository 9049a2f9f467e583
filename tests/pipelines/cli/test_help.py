"""Tests of the help texts of the commands and options."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from pipelines.cli.app import app, run
from pipelines.settings.config import FIELDS
from tests.pipelines.cli.conftest import ROOT

COMMANDS = (
    "demo",
    "init",
    "train",
    "backfill",
    "stream",
    "plot",
    "cold-start",
    "evaluate",
    "compare",
    "runs",
    "models",
    "register",
    "sync",
    "promote",
    "rollback",
    "retrain",
    "ui",
    "doctor",
)


def test_help_imports_no_slow_package() -> None:
    """The help must be fast. The test checks the imports, because the time depends on the machine."""
    command = [sys.executable, "-X", "importtime", "-m", "pipelines.cli", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(command in result.stdout for command in COMMANDS)
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
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    assert len(found.help.split()) >= 8
    assert all(param.help for param in found.params if param.name != "help")
    if command not in ("demo", "init", "ui"):
        assert "Example: statecast" in found.help or command == "doctor"
    assert "json" in " ".join(option for param in found.params for option in param.opts)


@pytest.mark.parametrize("command", COMMANDS)
def test_option_h_prints_the_help_of_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "-h"]) == 0
    captured = capsys.readouterr()
    assert f"Usage: statecast {command}" in captured.out
    assert captured.err == ""


def test_options_have_the_help_and_default_of_their_settings() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    params = [*commands["train"].params, *commands["stream"].params]
    shown = {option: param.show_default for param in params for option in param.opts}
    defaults = {
        "--freq": "1h", "--cell": "lstm", "--epochs": "12", "--register": "statecast", "--speed": "0",
        "--flink-master": "[local]", "--tracking-uri": "sqlite:///mlflow.db", "--topic": False,
    }  # fmt: skip
    assert {option: shown[option] for option in defaults} == defaults
    (hidden,) = (param for param in params if "--hidden" in param.opts)
    assert hidden.help == f"N{str(FIELDS['network.hidden'].description)[1:]}."
