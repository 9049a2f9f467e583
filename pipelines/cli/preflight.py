"""What can be refused at once, before torch and MLflow are loaded: model and store.

Imports none of them.
"""

from __future__ import annotations

from forecaster.registry.store import Reference, Store


def check_model(ref: str, tracking_uri: str) -> None:
    """Checks that ``ref`` can name a model, and that there is a store to look for it.

    Raises:
        ModelError: it cannot, or there is none.
    """
    if Reference.parse(ref).folder is None:
        check_store(tracking_uri)
        Store.parse(tracking_uri).check_exists()


def check_store(tracking_uri: str) -> None:
    """Checks that an MLflow store can be used, or made.

    Raises:
        ModelError: it cannot.
    """
    Store.parse(tracking_uri).check()
