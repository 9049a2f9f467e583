"""Convert errors of the operating system or an object store to `OutputError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.storage.remote import Location
from schemas.errors import OutputError, one_line


@contextmanager
def output_errors(message: str, *others: type[Exception], fix: str = "") -> Iterator[None]:
    """Convert an error in the ``with`` block to an `OutputError`: ``message``, the reason, and ``fix``.

    Args:
        message: what cannot be written.
        others: classes of errors that are converted in addition to `OSError`.
        fix: what the user can do; may be empty.
    """
    caught: tuple[type[Exception], ...] = (OSError, *others)
    try:
        yield
    except caught as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise OutputError(f"{message} ({reason})" + (f": {fix}" if fix else "")) from error


def cannot_write(folder: Location, error: OSError) -> OutputError:
    """Return the `OutputError` for an output folder that cannot be written to."""
    return OutputError(f"{folder}: cannot write here ({error.strerror}): name another folder")
