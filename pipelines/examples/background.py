"""Run trainings in other processes, each with the command ``statecast train``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from forecaster.durable import make_folder, write_bytes
from pipelines.settings.config import JobConfig
from pipelines.settings.job_file import commented_toml
from schemas.errors import StatecastError

_NICENESS = "5"  # lower priority for the training than for the stream that runs at the same time


class TrainedVersion(NamedTuple):
    """The model version that a training registered; ``version`` is a reference such as ``weather/2``."""

    run_id: str
    version: str
    model_version: str


@dataclass(frozen=True)
class BackgroundTraining:
    """A training that runs in another process.

    Attributes:
        name: name of the training.
        process: the process; it writes an object of JSON to stdout, or one line to stderr.
    """

    name: str
    process: subprocess.Popen[str]

    def result(self) -> TrainedVersion:
        """Wait for the end of the training, and return the registered version.

        Raises:
            StatecastError: the training has failed; the message is its last line.
        """
        printed, errors = self.process.communicate()
        if self.process.returncode:
            lines = errors.strip().splitlines() or [f"exit code {self.process.returncode}"]
            raise StatecastError(f"the training of {self.name} failed: {lines[-1].removeprefix('error: ')}")
        found: dict[str, Any] = json.loads(printed)
        version = found["version"]
        return TrainedVersion(
            found["run_id"], f"{version['name']}/{version['number']}", version["model_version"]
        )


@contextmanager
def background_trainings(
    jobs: Mapping[str, JobConfig], folder: Path
) -> Iterator[dict[str, BackgroundTraining]]:
    """Start trainings in a ``with`` block; at its end, stop the trainings that still run.

    Args:
        jobs: the settings of each training, by its name.
        folder: folder that a job file for each training is written to, as ``NAME/job.toml``.

    Yields:
        The trainings by name.
    """
    started: dict[str, BackgroundTraining] = {}
    try:
        for name, job in jobs.items():
            file = folder / name / "job.toml"
            make_folder(file.parent)
            write_bytes(file, commented_toml(job).encode())
            command = ["nice", "-n", _NICENESS, sys.executable, "-m", "pipelines.cli"]
            process = subprocess.Popen(
                [*command, "train", "--config", str(file), "--name", name, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started[name] = BackgroundTraining(name, process)
        yield started
    finally:
        for training in started.values():
            with training.process as process:  # at its end, this ``with`` block waits for the process
                process.terminate()
