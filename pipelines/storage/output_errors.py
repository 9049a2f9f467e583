"""Convert errors of the operating system or an object store to `OutputError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from pipelines.storage.remote import Location
from schemas.errors import OutputError, one_line


@contextmanager
def output_errors(message: str, *others: type[Exception], fix: str = "") -> Iterator[None]:
    """Convert an `OSError`, or an error of the classes ``others``, in the ``with`` block to an `OutputError`.

    The text of the `OutputError` consists of ``message``, the reason in the error, and ``fix``.

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


def folder_errors(folder: Location) -> AbstractContextManager[None]:
    """Convert an error of writing to an output folder in the ``with`` block to an `OutputError`."""
    return output_errors(f"{folder}: cannot write here", fix="name another folder")
