"""Check files of the repository: the requirements lock, the packages, the Makefile, the MLflow settings.

A test at the end checks that modules write files only through `forecaster.durable` and `pipelines.storage`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from forecaster.registry.ui import ui_environment

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
# The host names are split in two, because a test below fails if a tracked file contains one of them.
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


def test_the_requirements_lock_contains_no_url_or_index() -> None:
    assert "://" not in LOCK
    assert "--index" not in LOCK
    assert "--find-links" not in LOCK


def test_the_requirements_lock_contains_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    locked = {normalized(line) for line in LOCK.splitlines() if re.match(r"[a-z0-9]", line)}
    assert {normalized(name) for name in named} <= locked


# --- the repository


def test_no_tracked_file_contains_a_package_registry_host() -> None:
    for path in tracked():
        text = path.read_bytes() if path.is_file() else b""
        assert not [host for host in REGISTRIES if host.encode() in text], path


def test_the_repository_folder_mlflow_contains_no_python_files() -> None:
    assert list((ROOT / "mlflow").rglob("*.py*")) == []


def test_the_mlflow_folder_does_not_shadow_the_library() -> None:
    import mlflow

    assert mlflow.__file__ is not None
    assert ROOT / "mlflow" not in Path(mlflow.__file__).parents


def test_only_schemas_forecaster_and_pipelines_are_packaged() -> None:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert {name.partition(".")[0] for name in found["include"]} == {"schemas", "forecaster", "pipelines"}
    for package in ("schemas", "forecaster", "pipelines"):
        assert (ROOT / package / "py.typed").is_file()


def test_make_help_lists_every_documented_target() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make ([\w-]+)", listed, re.MULTILINE) == [
        "help", "setup", "setup-prism", "demo", "test", "lint", "docs", "bench", "chaos", "long-run",
        "lifecycle", "upgrade-test", "java", "cluster-up", "cluster-down", "cluster-test", "server-test",
        "lock", "clean",
    ]  # fmt: skip


# --- MLflow's settings


@pytest.mark.parametrize("name", ["main", "train", "backfill", "stream"])
def test_each_mlflow_entry_point_runs_its_statecast_command(name: str, tmp_path: Path) -> None:
    from mlflow.projects.utils import load_project

    job = tmp_path / "job.toml"
    job.touch()
    entry = load_project(str(ROOT / "mlflow")).get_entry_point(name)
    command = entry.compute_command({"config": str(job)}, str(tmp_path))
    verb = "train" if name == "main" else name
    # The command names no store, because MLflow passes the store in the environment.
    assert command == f"statecast {verb} --config {job}"


def test_mlflow_knows_the_name_of_each_server_env_variable() -> None:
    from mlflow import environment_variables
    from mlflow.cli import server

    known = {name for option in server.params for name in [option.envvar] if isinstance(name, str)}
    others = set(settings()) - known - {"DO_NOT_TRACK"}
    assert [name for name in others if not hasattr(environment_variables, name)] == []


def test_the_mlflow_server_listens_on_loopback_only() -> None:
    assert settings()["MLFLOW_HOST"] == "127.0.0.1"


def test_the_mlflow_server_and_ui_agree_on_shared_settings() -> None:
    ours = ui_environment("sqlite:///mlflow.db")
    # Do not compare the URI of the store: in this test, the UI gets an SQLite store, but the server uses
    # PostgreSQL.
    del ours["MLFLOW_BACKEND_STORE_URI"]
    assert {name: ours[name] for name in settings() if name in ours} == {
        name: value for name, value in settings().items() if name in ours
    }
    assert "MLFLOW_DISABLE_TELEMETRY" in ours


# --- writing of files

# Only these modules may write, rename or copy files themselves; a comment at each module says why.
# A module that is not listed must call `forecaster.durable` or `pipelines.storage` to write files.
CHANGES_FILES = {
    "forecaster/durable.py",  # this module implements the crash-safe writes
    "forecaster/registry/datasets.py",  # this module writes to memory only
    "forecaster/registry/run.py",  # this module writes only in functions that `write_whole` calls
    "forecaster/registry/store_checks.py",  # this module only opens a database for a check
    "pipelines/runners/engine.py",  # this module opens the log file to which an engine writes
    "pipelines/runners/prism_binary.py",  # this module writes only to a temporary folder
    "pipelines/sinks/flat_forecasts.py",  # this module writes only in functions that `write_whole` calls
    "pipelines/sinks/files.py",  # this module writes only in functions that `write_whole` calls
    "pipelines/state/snapshot_file.py",  # this module writes only in functions that `write_whole` calls
    "pipelines/sources/reader.py",  # this module writes the stop file; jobs check only whether it exists
    "pipelines/sources/files/sorted_runs.py",  # this module writes temporary files, which no later run reads
    "pipelines/state/state_file.py",  # this module calls `write_text` only for a temporary folder
    "pipelines/storage/journal.py",  # this module writes objects, which a store replaces atomically
    "pipelines/storage/disk_lock.py",  # this module writes the lock file of a folder
    "pipelines/storage/disk_store.py",  # this module appends whole lines, and links files that never change
    "pipelines/storage/files.py",  # this module writes only in a function that `write_whole` calls
    "pipelines/storage/lease.py",  # this module writes objects, which a store replaces atomically
    "pipelines/storage/remote.py",  # this module writes objects, which a store replaces atomically
    "pipelines/storage/moved_parts.py",  # this module renames only complete folders
    "pipelines/storage/object_store.py",  # this module writes objects, which a store replaces atomically
    "pipelines/storage/replaced_parts.py",  # this module writes objects, which a store replaces atomically
    "pipelines/state/table_files.py",  # this module renames only complete folders
}
OF_OS = {"replace", "rename", "renames", "link", "fsync", "truncate", "ftruncate", "write"}
OF_SHUTIL = {"copy", "copy2", "copyfile", "copytree", "move"}
WRITERS = {
    "write_text", "write_bytes", "write_csv", "write_excel", "write_ipc", "write_json", "write_ndjson",
    "write_parquet", "sink_csv", "sink_ipc", "sink_ndjson", "sink_parquet", "to_csv", "to_json", "to_parquet",
    "savefig", "print_png", "save_file", "tofile", "savez",
}  # fmt: skip
WRITING_MODE = re.compile(r"[rbt]*[wax+][wax+rbt]*")


def changes_a_file(call: ast.Call) -> bool:
    """Return whether a call may write, rename or copy a file; calls of `forecaster.durable` do not count."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    of = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if of in ("os", "shutil"):
        return name in (OF_OS if of == "os" else OF_SHUTIL)
    if name == "open":
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        texts = [one.value for one in given if isinstance(one, ast.Constant)]
        return any(isinstance(text, str) and bool(WRITING_MODE.fullmatch(text)) for text in texts)
    if (of, name) in (("torch", "save"), ("np", "save"), ("json", "dump"), ("pq", "write_table")):
        return True
    return bool(of) and of != "durable" and name in WRITERS and bool(call.args or call.keywords)


def writers_in(package: str) -> dict[str, list[str]]:
    """Return the calls of a package that change files, by module path."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and changes_a_file(node):
                found.setdefault(str(path.relative_to(ROOT)), []).append(
                    f"{node.lineno}: {ast.unparse(node)}"
                )
    return found


def test_only_the_listed_modules_write_files_directly() -> None:
    found = writers_in("schemas") | writers_in("forecaster") | writers_in("pipelines")
    assert {name: lines for name, lines in found.items() if name not in CHANGES_FILES} == {}
    assert set(found) == CHANGES_FILES


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("path.write_bytes(data)", True),
        ("frame.write_csv(path)", True),
        ("frame.write_csv()", False),
        ("figure.savefig(path)", True),
        ("open(path, 'w')", True),
        ("path.open(mode='a+b')", True),
        ("os.replace(new, old)", True),
        ("json.dump(record, file)", True),
        ("open(path)", False),
        ("path.open('rb')", False),
        ("text.replace('a', 'w')", False),
        ("write_whole(path, frame.write_csv)", False),
        ("durable.write_bytes(path, data)", False),
    ],
)
def test_calls_that_write_rename_or_copy_files_are_recognised(line: str, expected: bool) -> None:
    (call,) = (node for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call))
    assert changes_a_file(call) == expected
