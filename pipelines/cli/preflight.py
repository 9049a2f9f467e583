"""What can be refused at once, before torch, Beam and MLflow are loaded: inputs, output folder, store.

Imports none of them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from forecaster.registry.store import Reference, Store
from pipelines.runners.prism import MISSING, find_prism
from schemas.errors import EngineError, OutputError


def check_output(place: Path) -> None:
    """Checks that a folder, or a file in one, can be written; makes nothing.

    Raises:
        OutputError: it cannot.
    """
    place = place.expanduser().absolute()
    there = next(path for path in (place, *place.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise OutputError(f"{there} is a file, not a folder: name another folder")
    try:
        with tempfile.TemporaryFile(dir=there):  # asking is not knowing: root is told yes on a read-only disk
            pass
    except OSError as error:
        raise OutputError(f"{place}: cannot write here ({error.strerror}): name another folder") from error


def check_model(ref: str, tracking_uri: str) -> None:
    """Checks that ``ref`` can name a model, and that there is a store to look for it.

    Raises:
        ModelError: it cannot, or there is none.
    """
    if Reference.parse(ref).folder is None:
        check_store(tracking_uri)
        Store.parse(tracking_uri).check_exists()


def check_prism() -> None:
    """Checks that the streaming engine is installed.

    Raises:
        EngineError: it is not.
    """
    if find_prism() is None:
        raise EngineError(MISSING)


def check_store(tracking_uri: str) -> None:
    """Checks that an MLflow store can be used, or made.

    Raises:
        ModelError: it cannot.
    """
    Store.parse(tracking_uri).check()
