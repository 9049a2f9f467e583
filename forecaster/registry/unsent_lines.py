"""Messages to the user: an MLflow store did not take a trained model, or did not take entries of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from forecaster.registry.outbox import FOLDER
from forecaster.registry.store import Store


def unregistered_message(store: Store, reason: str, folder: Path) -> str:
    """Return the message that a trained model is not registered, but saved in ``folder``.

    Args:
        store: the store.
        reason: why the store did not take the model.
        folder: the folder of the outbox.
    """
    return (
        f"the model was trained, and the MLflow store {store} did not take it ({reason}): it is saved in "
        f"{folder}; statecast register {folder} registers it and finishes the run, and --model "
        f"{folder / 'model'} uses it now"
    )


def incomplete_message(store: Store, reason: str, folder: Path) -> str:
    """Return the message that MLflow did not take all entries of a run, and the rest is in ``folder``."""
    return (
        f"the MLflow store {store} did not take all of the run ({reason}): the rest is in {folder}; "
        "statecast sync sends it"
    )


def notices(refused: Sequence[str], dropped: int) -> list[str]:
    """Return a line for each refused entry, and one that counts dropped metric points and files, if any."""
    lines = [f"the MLflow store refused {line}" for line in refused]
    if dropped:
        lines.append(f"{dropped:,} metric points and files did not fit into {FOLDER}")
    return lines
