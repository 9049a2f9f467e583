"""Tests of the wheel: it is built, installed into an empty folder, and used from outside the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.runners.prism_binary import package_installer

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "forecaster", "pipelines")


def call(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command and return its stdout; if the command fails, fail the test and show the output."""
    words = [str(word) for word in command]
    ended = subprocess.run(words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert ended.returncode == 0, f"{words}: {ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, and install it without its dependencies into a folder."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    call(sys.executable, "-c", build, cwd=folder / "source")
    (wheel,) = folder.glob("*.whl")
    installer = package_installer()
    assert installer is not None
    call(*installer, "--no-deps", "--no-index", "--target", folder / "site", wheel, cwd=folder)
    return folder / "site"


def test_the_wheel_holds_every_file_of_the_packages(installed: Path) -> None:
    listed = call("git", "ls-files", *PACKAGES, cwd=ROOT).splitlines()
    assert {"pipelines/runners/pom.xml", "pipelines/dashboard/static/index.html", "schemas/py.typed"} <= {
        *listed
    }
    assert [name for name in listed if (ROOT / name).exists() and not (installed / name).exists()] == []


def test_the_installed_command_runs_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(installed), "COLUMNS": "100"}
    where = call(
        sys.executable, "-c", "import pipelines; print(pipelines.__file__)", cwd=tmp_path, **environment
    )
    assert where.strip() == str(installed / "pipelines" / "__init__.py")
    shown = call(installed / "bin" / "statecast", "--help", cwd=tmp_path, **environment)
    assert "forecast" in shown
    printed = call(sys.executable, "-m", "pipelines.cli", "doctor", "--json", cwd=tmp_path, **environment)
    checks = {check["name"]: check for check in json.loads(printed)["checks"]}
    assert {"torch", "torch works", "in-process runner", "example data", "output folder"} <= checks.keys()
    assert [check for check in checks.values() if not check["ok"]] == []
    call(sys.executable, "-m", "pipelines.cli", "init", "--example", "weather", cwd=tmp_path, **environment)
    assert (tmp_path / "weather.parquet").stat().st_size > 100_000
