"""What went wrong in a worker, as a value in the output folder: an engine hands on a traceback as text."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.storage import Location
from schemas import errors
from schemas.errors import EngineError, StatecastError

_FAILED = ".failed.json"


@contextmanager
def told_of(output: Location) -> Iterator[None]:
    """Leaves an error of ours in the output folder, for whoever started the job."""
    try:
        yield
    except StatecastError as error:
        told = json.dumps({"kind": type(error).__name__, "line": str(error)})
        if isinstance(output, Path):
            hidden = output / f"{_FAILED}.{os.getpid()}"  # several workers may fail at once
            hidden.write_text(told)
            os.replace(hidden, output / _FAILED)
        else:
            (output / _FAILED).write_bytes(told.encode())
        raise


def clear_told(output: Location) -> None:
    """Forgets the error of an earlier run."""
    (output / _FAILED).unlink(missing_ok=True)


def told(output: Location, error: BaseException) -> StatecastError:
    """The one line behind what a runner raised: our own if a worker left one, else the runner's last."""
    if isinstance(error, StatecastError):
        return error
    try:
        left = json.loads((output / _FAILED).read_text())
    except (OSError, ValueError):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return EngineError(f"the pipeline failed: {lines[-1] if lines else type(error).__name__}")
    kind: type[StatecastError] = getattr(errors, left["kind"], StatecastError)
    return kind(left["line"])
