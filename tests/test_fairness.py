"""Tests that the fairness benchmark ends even if one of its jobs prints much, fails, or runs too long."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import fairness
from benchmarks.fairness import Job, JobError, run_jobs


def job(folder: Path, name: str, program: str) -> Job:
    """Return a job that runs the Python code ``program`` and writes its output to ``name``.log."""
    return Job(name, (sys.executable, "-c", program), folder / f"{name}.log")


def test_run_jobs_ends_if_a_job_prints_much_to_stderr(tmp_path: Path) -> None:
    chatty = job(tmp_path, "chatty", "import sys; sys.stderr.write('x' * 1_000_000)")
    (took_s,) = run_jobs([chatty], limit_s=60)
    assert 0 < took_s < 60


def test_a_failed_job_ends_the_other_jobs(tmp_path: Path) -> None:
    began_s = time.monotonic()
    jobs = [job(tmp_path, "slow", "import time; time.sleep(300)"), job(tmp_path, "bad", "exit('no luck')")]
    with pytest.raises(JobError, match="bad: exit code 1: no luck"):
        run_jobs(jobs, limit_s=300)
    assert time.monotonic() - began_s < 60


def test_run_jobs_raises_an_error_at_the_time_limit(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"slow: no end after 0\.5 s"):
        run_jobs([job(tmp_path, "slow", "import time; time.sleep(300)")], limit_s=0.5)


def test_the_benchmark_prints_the_error_of_a_failed_job_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fairness, "_STATECAST", (sys.executable, "-c", "exit('no luck')"))
    assert fairness.main(["--quick"]) == 1
    last_line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last_line == {"error": "train-alone: exit code 1: no luck"}
