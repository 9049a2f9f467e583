"""Addresses of MLflow stores.

This module does not import MLflow, so that a wrong address is reported at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from forecaster.registry.store_checks import check_file, check_server, contents_of
from schemas.errors import ModelError
from schemas.masking import masked

if TYPE_CHECKING:
    from pydantic import SecretStr

_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Store:
    """The address of an MLflow store: ``sqlite:///FILE``, ``http(s)://HOST``, or the URI of another database.

    Attributes:
        uri: the address for MLflow, which can contain a password; the path of an SQLite file is absolute.
        database: the file of an SQLite store, None for any other store.
    """

    uri: str = field(repr=False)
    database: Path | None

    def __str__(self) -> str:
        """Return the address, with user name and password masked."""
        return masked(self.uri)

    @staticmethod
    def parse(uri: str | SecretStr) -> Store:
        """Parse the address ``uri`` of a store, which need not exist yet.

        Raises:
            ModelError: MLflow cannot use ``uri`` as an address.
        """
        text = (uri if isinstance(uri, str) else uri.get_secret_value()).strip()
        if text.startswith(_SQLITE):
            name = text.removeprefix(_SQLITE).partition("?")[0]
            if not name or name == ":memory:":
                raise ModelError(f"{text} names no file: write sqlite:///mlflow.db")
            file = Path(os.path.expanduser(name)).absolute()
            return Store(f"{_SQLITE}{file}", file)
        if "://" not in text and "@" in text:
            raise ModelError(
                f"'***@{text.rpartition('@')[2]}' is not an MLflow store: write http://HOST:PORT, and set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for the login"
            )
        scheme = urlsplit(text).scheme
        if scheme in ("http", "https"):
            if not urlsplit(text).hostname:
                raise ModelError(f"{text} names no host: write http://127.0.0.1:5000")
            return Store(text.rstrip("/"), None)
        if scheme.partition("+")[0] in ("postgresql", "mysql", "mssql"):
            return Store(text, None)
        raise ModelError(
            f"{text!r} is not an MLflow store: write sqlite:///mlflow.db, or the http address of a server"
        )

    @property
    def artifacts(self) -> Path | None:
        """The folder ``mlartifacts`` beside an SQLite file; None for any other store."""
        return None if self.database is None else self.database.parent / "mlartifacts"

    def exists(self) -> bool:
        """Return False if the store is an SQLite file that is missing or holds no complete store; else True.

        A locked or damaged file counts as a store: MLflow reports the reason later.
        """
        return self.database is None or contents_of(self.database) == "store"

    def check_exists(self) -> None:
        """Check that the store has been created: that `exists` returns True.

        Raises:
            ModelError: the store has not been created.
        """
        if not self.exists():
            raise ModelError(
                f"there is no MLflow store at {self.database}: train a model with statecast train, or "
                "name the store with --tracking-uri"
            )

    def check(self) -> None:
        """Check that the SQLite file of the store is usable, or that its HTTP server answers.

        MLflow itself would report such an error late, in many lines, or not at all.

        Raises:
            ModelError: an SQLite file cannot be created or written, or is not an MLflow store; or a server
                does not answer.
        """
        if self.database is not None:
            check_file(self.database)
        elif self.uri.startswith("http"):
            check_server(self.uri)


def registry_of(tracking: Store, registry_uri: str | SecretStr) -> Store:
    """Return the model store at ``registry_uri``; if ``registry_uri`` is empty, return ``tracking``."""
    text = registry_uri if isinstance(registry_uri, str) else registry_uri.get_secret_value()
    return Store.parse(text) if text.strip() else tracking
