"""Convert errors of the operating system or an object store to `OutputError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.storage.remote import Location
from schemas.errors import OutputError


@contextmanager
def output_errors(message: str) -> Iterator[None]:
    """Convert an `OSError` in the ``with`` block to an `OutputError` with ``message`` and the reason."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{message} ({error.strerror or error})") from error


def cannot_write(folder: Location, error: OSError) -> OutputError:
    """Return the `OutputError` for an output folder that cannot be written to."""
    return OutputError(f"{folder}: cannot write here ({error.strerror}): name another folder")
