"""Pass a worker's error to the process that started the job, through a file in the output folder.

An engine reports only the text of a traceback. The file contains the class and the message of the error.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipelines.storage import Location, markers, store_of, write_text
from schemas import errors
from schemas.errors import EngineError, OutputError, StatecastError
from schemas.sealed import seal, unseal

_EXCEPTION_LINE = re.compile(r"[\w.]*(Error|Exception)\b")
_FULL_BYTES = 1 << 20
_ERROR_CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, StatecastError)
}


@contextmanager
def store_worker_error(output: Location) -> Iterator[None]:
    """Write a `StatecastError` of the ``with`` block into a file of the output folder; raise it again."""
    try:
        yield
    except StatecastError as error:
        record = {"kind": type(error).__name__, "line": str(error)}
        # If the disk is full, this file cannot be written. `error_to_report` then checks the free space.
        with suppress(OSError):
            write_text(output / markers.worker_error(os.getpid()), seal(record))
        raise


def clear_worker_errors(output: Location) -> None:
    """Delete the files into which the workers of earlier runs wrote their errors."""
    for path in _error_files(output):
        path.unlink(missing_ok=True)


def error_to_report(output: Location, error: BaseException) -> StatecastError:
    """Return the error that a job reports to the user after its runner raised ``error``.

    The result is ``error`` itself if it is a `StatecastError`. Otherwise it is the first error that a worker
    wrote into a file. Without such a file, it is an `OutputError` if the disk is full, or else an
    `EngineError` with a line of ``error``.
    """
    if isinstance(error, StatecastError):
        return error
    try:
        record = unseal(min(_error_files(output), key=lambda file: store_of(file).written_ns()).read_bytes())
        kind, line = _ERROR_CLASSES[record["kind"]], str(record["line"])
    except (OSError, ValueError, KeyError, TypeError):  # no worker has written a readable error file
        if _is_full(output):  # no worker could write its error, because the disk is full
            return OutputError(f"{output}: the disk is full: make room, and start it again")
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # Choose the last line that names an exception: most lines are stack frames and logs of the engine.
        raised = [line for line in lines if _EXCEPTION_LINE.match(line)]
        return EngineError(
            f"the pipeline failed: {[*lines[:1], *raised][-1] if lines else type(error).__name__}"
        )
    return kind(line)


def _error_files(output: Location) -> list[Location]:
    """Return the files in the output folder into which workers wrote their errors."""
    return [*output.glob(markers.WORKER_ERRORS)]


def _is_full(folder: Location) -> bool:
    disk = store_of(folder).on_disk
    with suppress(OSError):
        return disk is not None and shutil.disk_usage(disk).free < _FULL_BYTES
    return False
