"""Tests of the set-up of Java programs: the jars of Flink and Kafka, and Beam's job server for Flink."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from pipelines.runners import java
from pipelines.runners.prism_binary import beam_version
from schemas.errors import EngineError


def write_script(path: Path, body: str) -> Path:
    """Write an executable shell script, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{textwrap.dedent(body)}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Simulate a machine with Java 17 and without fetched jars; return its folder of programs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    java._java_version.cache_clear()
    write_script(tmp_path / "bin" / "java", "echo 'openjdk version \"17.0.1\"' >&2")
    return tmp_path / "bin"


# The script of a fake Maven, the program that fetches jars. The tests replace {served} by a text: if the
# arguments of the script contain this text, it writes a jar; otherwise it fails.
MAVEN = """
    for word; do case "$word" in -DoutputDirectory=*) folder=${{word#*=}};; esac; done
    case "$*" in
        *{served}*) mkdir -p "$folder" && echo jar > "$folder/some.jar";;
        *) echo "[ERROR] no such artifact"; exit 1;;
    esac
"""


def test_pom_versions_include_flink_and_kafka_and_beam_runner() -> None:
    assert {"flink.version", "kafka.version", "beam.runner.version"} <= java.versions().keys()
    assert all(java.versions().values())


def test_the_error_for_missing_java_names_what_to_install(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EngineError, match=r"Java is not installed \(on PATH\): install Java 17"):
        java.find_java()
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(EngineError, match="in JAVA_HOME=/nowhere"):
        java.find_java()


def test_a_java_that_is_too_old_is_refused(machine: Path) -> None:
    write_script(machine / "java", "echo 'openjdk version \"11.0.2\"' >&2")
    with pytest.raises(EngineError, match=r"Java 11 .* is too old"):
        java.find_java()


def test_errors_for_missing_jars_suggest_the_command_make_java(machine: Path) -> None:
    for find in (java.job_server, java.flink_home, java.kafka_jars):
        with pytest.raises(EngineError, match="make java"):
            find()


def test_a_missing_maven_is_reported(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(machine))
    with pytest.raises(EngineError, match="Maven is not installed"):
        java.setup_kafka()


def test_existing_jars_are_not_fetched_again(machine: Path) -> None:
    write_script(machine / "mvn", MAVEN.format(served="kafka"))
    folder = java.setup_kafka()
    assert [path.name for path in folder.iterdir()] == ["some.jar"]
    write_script(machine / "mvn", "exit 1")
    assert java.setup_kafka() == java.kafka_jars() == folder


def test_a_concurrent_set_up_of_the_same_jars_succeeds(machine: Path) -> None:
    concurrent = java._kafka()
    write_script(
        machine / "mvn", f"mkdir -p {concurrent}; touch {concurrent}/their.jar" + MAVEN.format(served="kafka")
    )
    assert [path.name for path in java.setup_kafka().iterdir()] == ["their.jar"]
    assert list(java._java().iterdir()) == [concurrent]


def test_setup_installs_beams_released_job_server_if_available(machine: Path) -> None:
    write_script(machine / "mvn", MAVEN.format(served="released-job-server"))
    java.setup_job_server()
    assert java.job_server()[1] == f"Beam's job server {beam_version()}"


def test_setup_installs_pinned_job_server_if_registry_lacks_release(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_script(machine / "mvn", MAVEN.format(served="'-P job-server'"))
    java.setup_job_server()
    assert java.versions()["beam.runner.version"] in java.job_server()[1]
    assert "the registry lacks Beam's released job server" in capsys.readouterr().err


def test_a_failed_set_up_of_kafka_leaves_no_files(machine: Path) -> None:
    write_script(machine / "mvn", "mkdir -p x; echo '[ERROR] the registry is down'; exit 1")
    with pytest.raises(EngineError, match="the registry is down"):
        java.setup_kafka()
    assert list(java._java().iterdir()) == []
