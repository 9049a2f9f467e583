"""What can be refused at once, before torch, Beam and MLflow are loaded: model, store, engine.

Imports none of them.
"""

from __future__ import annotations

from forecaster.registry.store import Reference, Store
from pipelines.runners.prism import MISSING, find_prism
from schemas.errors import EngineError


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
