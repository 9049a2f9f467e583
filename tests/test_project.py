"""Check the files around the code: the lock, the repository, the Makefile and the settings of MLflow."""

from __future__ import annotations

import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from forecaster.registry.store import ui_environment

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
# In pieces, because the test below would find complete names in this file.
REGISTRIES = tuple(
    "".join(pieces)
    for pieces in (
        ("py", "pi.org"),
        ("python", "hosted"),
        ("proxy.", "golang"),
        ("repo1.", "maven"),
        ("registry.", "npmjs"),
    )
)


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name.decode() for name in listed.split(b"\0") if name]


def settings() -> dict[str, str]:
    lines = (ROOT / "mlflow" / "server.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", name)[0]).lower()


# --- the lock


def test_every_locked_package_has_a_version_and_a_hash() -> None:
    blocks = [block for block in re.split(r"\n(?=[a-z0-9])", LOCK) if not block.startswith("#")]
    assert len(blocks) > 50
    for block in blocks:
        assert re.match(r"[a-z0-9][a-z0-9._-]*==[0-9]\S*", block), block
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), block


def test_the_lock_contains_no_address() -> None:
    assert "://" not in LOCK
    assert "--index" not in LOCK
    assert "--find-links" not in LOCK


def test_the_lock_contains_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    locked = {normalized(line) for line in LOCK.splitlines() if re.match(r"[a-z0-9]", line)}
    assert {normalized(name) for name in named} <= locked


# --- the repository


def test_no_tracked_file_contains_a_package_registry_host() -> None:
    for path in tracked():
        text = path.read_bytes() if path.is_file() else b""
        assert not [host for host in REGISTRIES if host.encode() in text], path


def test_the_mlflow_folder_contains_no_python() -> None:
    assert list((ROOT / "mlflow").rglob("*.py*")) == []


def test_the_mlflow_folder_does_not_shadow_the_library() -> None:
    import mlflow

    assert mlflow.__file__ is not None
    assert ROOT / "mlflow" not in Path(mlflow.__file__).parents


def test_only_the_three_packages_are_shipped() -> None:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert {name.partition(".")[0] for name in found["include"]} == {"schemas", "forecaster", "pipelines"}
    for package in ("schemas", "forecaster", "pipelines"):
        assert (ROOT / package / "py.typed").is_file()


def test_make_help_lists_every_documented_target() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make ([\w-]+)", listed, re.MULTILINE) == [
        "help", "setup", "demo", "test", "lint", "bench", "chaos", "upgrade-test", "java", "cluster-up",
        "cluster-down", "cluster-test", "lock", "clean",
    ]  # fmt: skip


# --- MLflow's settings


@pytest.mark.parametrize("name", ["main", "train", "backfill", "stream"])
def test_mlflow_can_start_each_job(name: str, tmp_path: Path) -> None:
    from mlflow.projects.utils import load_project

    job = tmp_path / "job.toml"
    job.touch()
    entry = load_project(str(ROOT / "mlflow")).get_entry_point(name)
    command = entry.compute_command({"config": str(job)}, str(tmp_path))
    verb = "train" if name == "main" else name
    assert command == f"statecast {verb} --config {job}"  # no store: MLflow passes it in the environment


def test_mlflow_accepts_every_setting_of_the_server() -> None:
    from mlflow import environment_variables
    from mlflow.cli import server

    known = {name for option in server.params for name in [option.envvar] if isinstance(name, str)}
    others = set(settings()) - known - {"DO_NOT_TRACK"}
    assert [name for name in others if not hasattr(environment_variables, name)] == []


def test_the_server_listens_on_loopback_only() -> None:
    assert settings()["MLFLOW_HOST"] == "127.0.0.1"


def test_the_server_and_the_ui_have_equal_settings() -> None:
    ours = ui_environment("sqlite:///mlflow.db")
    del ours[
        "MLFLOW_BACKEND_STORE_URI"
    ]  # the absolute path of the file that the server names by a relative path
    assert {name: ours[name] for name in settings() if name in ours} == {
        name: value for name, value in settings().items() if name in ours
    }
    assert "MLFLOW_DISABLE_TELEMETRY" in ours


# Files of the package pipelines that may write files directly: the function that writes all other files,
# renames of folders, marker files, sorted runs that a restart writes again, and code that sets up a machine.
CHANGES_FILES = (
    "storage/",
    "state/snapshot_file.py",
    "state/state_file.py",
    "state/table_files.py",
    "sinks/folder.py",
    "sinks/replace_output.py",
    "sources/reader.py",
    "sources/files/sorted_runs.py",
    "runners/java.py",
    "runners/prism_binary.py",
    "cli/setup.py",
)
CHANGES = re.compile(
    r"os\.(replace|rename|fsync|truncate)\(|\.write_(text|bytes)\(|\.rename\((?!found)|open\([^)]*[\"'][wax]b?\+?[\"']"
)


def test_pipelines_write_files_only_with_the_storage_module() -> None:
    for path in sorted((ROOT / "pipelines").rglob("*.py")):
        name = str(path.relative_to(ROOT / "pipelines"))
        if not name.startswith(CHANGES_FILES):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                is_log = "log.open(" in line or "os.devnull" in line
                assert is_log or not CHANGES.search(line), f"{name}:{number}: use pipelines.storage"
