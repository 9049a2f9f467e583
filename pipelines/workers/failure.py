"""What went wrong in a worker, as a value in the output folder: an engine hands on a traceback as text."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.storage import Location, write_text, written_ns
from schemas import errors
from schemas.errors import EngineError, OutputError, StatecastError
from schemas.sealed import seal, unseal

_FAILED = ".failed-"  # and the process that failed: several workers may at once
_RAISED = re.compile(r"[\w.]*(Error|Exception)\b")
_FULL_BYTES = 1 << 20
_KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, StatecastError)
}


@contextmanager
def store_worker_error(output: Location) -> Iterator[None]:
    """Leaves an error of ours in the output folder, for whoever started the job."""
    try:
        yield
    except StatecastError as error:
        said = {"kind": type(error).__name__, "line": str(error)}
        with suppress(OSError):  # on a full disk that is left to `told`
            write_text(output / f"{_FAILED}{os.getpid()}", seal(said))
        raise


def clear_worker_errors(output: Location) -> None:
    """Forgets the errors of an earlier run."""
    for path in _left(output):
        path.unlink(missing_ok=True)


def told(output: Location, error: BaseException) -> StatecastError:
    """The one line behind what a runner raised: what a worker left first, else the runner's last line."""
    if isinstance(error, StatecastError):
        return error
    try:
        left = unseal(min(_left(output), key=written_ns).read_bytes())
        kind, line = _KINDS[left["kind"]], str(left["line"])
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or none that can be read
        if isinstance(output, Path) and _is_full(output):  # nobody could leave anything there
            return OutputError(f"{output}: the disk is full: make room, and start it again")
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raised = [line for line in lines if _RAISED.match(line)]  # the rest of a traceback, or of an engine
        return EngineError(
            f"the pipeline failed: {[*lines[:1], *raised][-1] if lines else type(error).__name__}"
        )
    return kind(line)


def _left(output: Location) -> list[Location]:
    """The errors that workers left, each a file."""
    return [*output.glob(f"{_FAILED}*")]


def _is_full(folder: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(folder).free < _FULL_BYTES
    return False
