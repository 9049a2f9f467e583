"""What went wrong in a worker, as a value in the output folder: an engine hands on a traceback as text."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas import errors
from schemas.errors import EngineError, StatecastError

_FAILED = ".failed.json"


@contextmanager
def told_of(output: Path) -> Iterator[None]:
    """Leaves an error of ours in the output folder, for whoever started the job."""
    try:
        yield
    except StatecastError as error:
        hidden = output / f"{_FAILED}.{os.getpid()}"
        hidden.write_text(json.dumps({"kind": type(error).__name__, "line": str(error)}))
        os.replace(hidden, output / _FAILED)
        raise


def clear_told(output: Path) -> None:
    """Forgets the error of an earlier run."""
    (output / _FAILED).unlink(missing_ok=True)


def told(output: Path, error: BaseException) -> StatecastError:
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
