"""Tests of the choice of the engine of a job, and of the options that are passed to Beam."""

from __future__ import annotations

import inspect
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.cli import engine
from pipelines.cli.console import silence_workers
from pipelines.cli.engine import (
    choose_engine,
    engine_fields,
    requested_runner,
    split_beam_options,
    with_absolute_paths,
)
from pipelines.jobs.job import EngineSettings
from pipelines.runners.base import FlinkSettings
from pipelines.settings.config import JobConfig, JobsConfig
from schemas.errors import ConfigError

AUTO, IN_PROCESS = JobsConfig(), JobsConfig(runner="in-process")


def test_choose_engine_falls_back_to_in_process_without_prism(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "find_prism", lambda: Path("prism"))
    assert choose_engine(AUTO)[0] == "prism"
    assert choose_engine(IN_PROCESS) == ("in-process", "in process")
    monkeypatch.setattr(engine, "find_prism", lambda: None)
    assert choose_engine(AUTO) == ("in-process", "in process: Prism is not installed")


def test_a_backfill_runs_in_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_prism", lambda: Path("prism"))
    assert choose_engine(AUTO, is_bounded=True) == ("in-process", "in process")
    assert choose_engine(JobsConfig(runner="prism"), ("--x=1",), is_bounded=True)[0] == "prism"


def test_naming_a_flink_master_selects_flink() -> None:
    assert (
        requested_runner(None, "[local]")
        == requested_runner("flink", "host:1")
        == requested_runner("auto", "host:1")
        == "flink"
    )
    assert requested_runner("prism", None) == "prism"
    assert requested_runner(None, None) is None


def test_the_engine_settings_of_a_job_file_are_passed_to_the_job() -> None:
    settings = JobsConfig(flink_master="a:1", flink_workers="b:2", restarts=7)
    expected = EngineSettings(
        runner="flink", flink=FlinkSettings("a:1", "b:2"), beam_options=("--c=3",), restarts=7
    )
    assert engine_fields("flink", settings, ("--c=3",)) == expected
    assert engine_fields("prism", JobsConfig(), ()).flink.workers is None


def test_job_paths_become_absolute_only_with_flink_worker_pool() -> None:
    given = {
        "data": {"paths": ["rows.csv", "/data/more"]},
        "output": {"folder": "out"},
        "kafka": {"avro_schema": "row.avsc"},
        "jobs": {"runner": "flink", "flink_workers": "host:1"},
    }
    here, job = Path.cwd(), JobConfig.model_validate(given)
    for_workers = with_absolute_paths(job)
    assert for_workers.data.paths == (f"{here}/rows.csv", "/data/more")
    assert (for_workers.output.folder, for_workers.kafka.avro_schema) == (f"{here}/out", f"{here}/row.avsc")
    in_store = JobConfig.model_validate({**given, "output": {"folder": "s3://bucket/out"}, "kafka": {}})
    assert with_absolute_paths(in_store).output.folder == "s3://bucket/out"
    assert with_absolute_paths(in_store).kafka.avro_schema == ""
    without_pool = JobConfig.model_validate({**given, "jobs": {"runner": "flink"}})
    assert with_absolute_paths(without_pool) == without_pool


def test_beam_options_are_separated_from_the_data_arguments() -> None:
    data = ["a.csv", "--parallelism=2", "--experiments=x"]
    assert split_beam_options(data) == (["a.csv"], ("--parallelism=2", "--experiments=x"))
    assert split_beam_options(None) == (None, ())


def test_split_beam_options_joins_options_with_their_values() -> None:
    data = ["a.csv", "b.csv", "--parallelism", "4", "--experiments", "x", "--streaming"]
    expected = ("--parallelism=4", "--experiments=x", "--streaming")
    assert split_beam_options(data) == (["a.csv", "b.csv"], expected)
    for stray in (["--parallelism", "4", "b.csv"], ["--parallelism=4", "b.csv"]):
        with pytest.raises(ConfigError, match=r"b.csv: is not the value of a Beam option"):
            split_beam_options(["a.csv", *stray])
    with pytest.raises(ConfigError, match="name the engine before the --"):
        split_beam_options(["a.csv", "--runner", "DirectRunner"])


def test_invalid_beam_options_raise_config_error_without_output(capsys: pytest.CaptureFixture[str]) -> None:
    stream = sys.stderr
    with pytest.raises(ConfigError, match="=x: argument --direct_num_workers: invalid int"):
        choose_engine(JobsConfig(runner="prism"), ("--direct_num_workers=x",))
    with pytest.raises(ConfigError, match="--help: -h and --help are not options of a job"):
        choose_engine(JobsConfig(runner="prism"), ("--help",))
    assert sys.stderr is stream
    assert capsys.readouterr() == ("", "")


def test_silence_workers_hides_stack_traces_but_no_other_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from apache_beam.runners.worker import log_handler, sdk_worker

    assert "print(traceback_string, file=sys.stderr)" in inspect.getsource(sdk_worker.SdkHarness._execute)
    for module in (sdk_worker, log_handler):
        monkeypatch.setitem(vars(module), "print", print)
    harness: Any = SimpleNamespace(_responses=SimpleNamespace(put=lambda response: None))
    request: Any = SimpleNamespace(instruction_id="1")

    def fail() -> Any:
        raise ZeroDivisionError

    sdk_worker.SdkHarness._execute(harness, fail, request)
    assert "ZeroDivisionError" in capsys.readouterr().err
    monkeypatch.setattr(logging.getLogger(), "level", logging.CRITICAL)
    silence_workers()
    sdk_worker.SdkHarness._execute(harness, fail, request)
    assert capsys.readouterr().err == ""
    print("others still print", file=sys.stderr)
    assert capsys.readouterr().err == "others still print\n"
