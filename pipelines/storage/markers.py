"""Define the names of files in an output folder through which the processes of a job communicate.

A job, its workers and later jobs on the same folder share no memory, so they leave files for each other. Only
this module has the names of these files. Names of the files, or of their folders, begin with a dot, so
readers of forecasts skip them. A backfill works in its hidden folder `BACKFILL` until its end. It has its
lock and its manifest in the output folder, and the other files in `BACKFILL`.
"""

from __future__ import annotations

import re
from typing import Final
from uuid import uuid4

# The files below ensure that only one job at a time uses an output folder.

LOCK: Final = ".lock"
"""On a disk: the file that the running job keeps locked, with its process id. Removed when the job ends."""

LEASES: Final = ".lock-*"
"""In an object store: pattern of the numbered leases. The job with the highest number holds the output."""

ANY_LOCK: Final = ".lock*"
"""Pattern of the file `LOCK` of a running job, and of the leases of all jobs so far."""

_LEASE_PREFIX: Final = ".lock-"
_LEASE: Final = re.compile(re.escape(_LEASE_PREFIX) + r"\d{6,}")

# The files below show which run owns the output folder, and whether the run is to stop or has ended.

OWNER: Final = ".run"
"""The file with the id of the run that owns the folder. A worker of another run stops writing."""

STOP: Final = ".stop"
"""The stop file: the job ends cleanly when it exists. SIGINT or SIGTERM creates it; sources check for it."""

ENDED_SHARDS: Final = ".ended-*"
"""Pattern of the files of `ended_shard`. The job has ended when every shard has such a file."""

# The files below are the reports of workers to the job's process: errors, numbers and notices.

WORKER_ERRORS: Final = ".failed-*"
"""Pattern of the files of `worker_error`. The job reports the oldest file; the next run removes all."""

NUMBERS: Final = ".numbers"
"""Folder of the numbers that shards publish; the job reads them repeatedly."""

NOTICES: Final = "notices.json"
"""File in `NUMBERS`: the notices of a source about its rows."""

SHARDS_WITH_NUMBERS: Final = "shard-*.json"
"""Pattern of the files of `numbers_of_shard` in `NUMBERS`."""

# The two files below record the alerts that were sent and the sums of forecast errors that were logged to
# MLflow. So a resumed stream does not send or log them again.

ALERTS: Final = ".alerts.json"
"""The file with the time of the last alert of each rule."""

PRODUCTION: Final = ".production.json"
"""The file with the MLflow run of each model version, and the sums of errors that were logged to it."""

# A stream gives its workers another model version through the files below.

MODELS: Final = "models"
"""Folder of the weights of each model version that a stream has used."""

MODEL_REQUEST: Final = ".model-request"
"""The file with the model version that a stream is to change to; the reader of the log chooses the window."""

# With the names below, a backfill replaces either all output of an earlier job or none of it.

BACKFILL: Final = ".backfill"
"""The hidden folder in which a backfill works until its output replaces that of an earlier job."""

COMPLETE: Final = "complete"
"""On a disk: a file whose existence in `BACKFILL` shows that the new output is complete."""


def lease(number: int) -> str:
    """Return the name of the lease with the number ``number``; see `LEASES`."""
    return f"{_LEASE_PREFIX}{number:06d}"


def is_lease(name: str) -> bool:
    """Return whether an object's name is the name of a lease; see `LEASES`."""
    return _LEASE.fullmatch(name) is not None


def lease_number(name: str) -> int:
    """Return the number in the name of a lease."""
    return int(name.removeprefix(_LEASE_PREFIX))


def probe() -> str:
    """Return a new name for a test object; a job writes it to test a store and to read the store's clock."""
    return f".probe-{uuid4().hex}"


def ended_shard(shard: int) -> str:
    """Return the name of the empty file that a worker creates when a shard has nothing left to write."""
    return f".ended-{shard:04d}"


def worker_error(process: int) -> str:
    """Return the name of the file into which a worker process writes the class and message of its error."""
    return f".failed-{process}"


def numbers_of_shard(shard: int) -> str:
    """Return the name of the file in the folder `NUMBERS` to which a shard publishes its numbers."""
    return f"shard-{shard:04d}.json"


def new_table(name: str) -> str:
    """Return the name of the hidden folder in which a state table is written before it replaces ``name``."""
    return f".{name}.new"


def old_table(name: str) -> str:
    """Return the name under which earlier versions of Statecast kept a replaced state table."""
    return f".{name}.old"


def manifest(hidden: str) -> str:
    """Return the name of the object that lists the parts to be replaced by the objects under ``hidden``."""
    return f"{hidden}.json"
