"""Build a new SQLite store under a temporary name, and rename it once it is complete.

MLflow itself builds a database in place, by some 60 migrations, each of which commits. A process that ends
between two migrations leaves a database that MLflow cannot open again, and two processes that build one
database at the same time destroy it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forecaster.durable import move_whole
from forecaster.registry.refusals import store_errors
from forecaster.registry.store import Store
from schemas.errors import ModelError


def make_store(store: Store) -> None:
    """Build the database of an SQLite store that does not exist yet; leave any other store as it is.

    Raises:
        ModelError: the database cannot be built or locked, or the file is not a store.
    """
    file = store.database
    if file is None or store.exists():
        return
    with store_errors(store.uri), _locked(file.parent):
        store.check()
        if store.exists():  # another process created the store during the wait for the lock
            return
        unfinished = f".{file.name}.new-"
        for left in file.parent.iterdir():
            # A killed process left this unfinished database. No process writes it: this process has the lock.
            if left.name.startswith(unfinished):
                left.unlink(missing_ok=True)
        new = file.with_name(f"{unfinished}{secrets.token_hex(8)}")
        try:
            _build(new, store)
            move_whole(new, file)
        finally:
            for left in (new, new.with_name(f"{new.name}-journal")):
                left.unlink(missing_ok=True)


def _build(file: Path, store: Store) -> None:
    """Create an MLflow database in ``file``; its runs put files into the artifact folder of ``store``."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # takes 1 s

    assert store.artifacts is not None
    uri = f"sqlite:///{file}"
    built = SqlAlchemyStore(uri, store.artifacts.as_uri())
    built.engine.dispose()
    SqlAlchemyStore._engine_map.pop(uri, None)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder itself for a ``with`` block: only one process at a time creates a store in it.

    No lock file is needed, which a killed process would leave behind.
    """
    try:
        held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ModelError(f"{folder} cannot be opened ({error.strerror}): choose another folder") from error
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError as error:
            raise ModelError(
                f"{folder} cannot be locked ({error.strerror}): choose a folder on a local disk"
            ) from error
        yield
    finally:
        os.close(held)
