"""Make MLflow stores for tests by copying one store, because MLflow takes 4 CPU seconds to build a store."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from forecaster.registry import new_store
from forecaster.registry.store import Store


def copy_new_stores(folder: Path) -> None:
    """Build one MLflow store in ``folder``; after this call, `make_store` copies it instead of building one.

    Several processes may call this function with the same folder: only the first process builds the store.
    """
    built = Store.parse(f"sqlite:///{folder}/built.db")
    new_store.make_store(built)

    def copy(file: Path, store: Store) -> None:
        assert built.database is not None
        assert built.artifacts is not None
        assert store.artifacts is not None
        shutil.copyfile(built.database, file)
        places = built.artifacts.as_uri(), store.artifacts.as_uri()
        with closing(sqlite3.connect(file)) as database, database:
            database.execute(
                "update experiments set artifact_location = replace(artifact_location, ?, ?)", places
            )

    new_store._build = copy
