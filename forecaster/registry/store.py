"""Addresses of MLflow stores, and references to the models in them.

This module does not import MLflow, so that a wrong address is reported at once.
"""

from __future__ import annotations

import http.client
import os
import re
import shlex
import sqlite3
import sys
import tempfile
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from schemas.errors import ModelError
from schemas.masking import masked, split_login

if TYPE_CHECKING:
    from pydantic import SecretStr

DEFAULT_ALIAS = "champion"
_SQLITE = "sqlite:///"
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_NAME = r"[^/@:'\"\s][^/@:'\"]*"
_PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Store:
    """The address of an MLflow store: ``sqlite:///FILE``, ``http(s)://HOST`` or another MLflow database.

    Attributes:
        uri: the address for MLflow, which can contain a password; the path of an SQLite file is absolute.
        database: the file of an SQLite store, None for any other store.
    """

    uri: str = field(repr=False)
    database: Path | None

    def __str__(self) -> str:
        """Return the address without user name and password."""
        return masked(self.uri)

    @staticmethod
    def parse(uri: str | SecretStr) -> Store:
        """Return the store at ``uri``, which need not exist yet.

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
        """The folder ``mlartifacts`` beside an SQLite file; None if the server decides."""
        return None if self.database is None else self.database.parent / "mlartifacts"

    def exists(self) -> bool:
        """Return whether there is a store to read from; True for every server."""
        return self.database is None or _contents(self.database) == "store"

    def check_exists(self) -> None:
        """Check that the store has been created.

        Raises:
            ModelError: the store has not been created.
        """
        if not self.exists():
            raise ModelError(
                f"there is no MLflow store at {self.database}: train a model with statecast train, or "
                "name the store with --tracking-uri"
            )

    def check(self) -> None:
        """Check the store quickly, because MLflow would report an error late, in many lines or not at all.

        Raises:
            ModelError: an SQLite file cannot be created or written, or is not an MLflow store; or a server
                does not answer.
        """
        if self.database is not None:
            _check_file(self.database)
        elif self.uri.startswith("http"):
            _check_server(self.uri)


def _check_file(file: Path) -> None:
    """Check that an SQLite file can be created or written, and that it is an MLflow store.

    Raises:
        ModelError: the file cannot be used, or is not an MLflow store.
    """
    if not file.parent.is_dir():
        raise ModelError(
            f"the MLflow store {file} cannot be made: its folder is missing; run mkdir -p {file.parent} first"
        )
    if file.is_dir():
        raise ModelError(
            f"the MLflow store {file} is a folder: name a file, such as sqlite:///{file}/mlflow.db"
        )
    # Try to write: for root, os.access is True on a read-only disk, where MLflow would retry for 2 minutes.
    try:
        if file.exists():
            file.open("r+b").close()
        with tempfile.TemporaryFile(dir=file.parent):  # SQLite writes a rollback file beside the database
            pass
    except OSError as error:
        raise ModelError(
            f"the MLflow store {file} cannot be written ({error.strerror}): choose another with "
            "--tracking-uri sqlite:///FILE"
        ) from error
    if file.exists():
        with file.open("rb") as stream:
            head = stream.read(16)
        if head and head != b"SQLite format 3\0":
            raise ModelError(
                f"{file} is not an SQLite database: move it away, or choose another with --tracking-uri"
            )
    if (contents := _contents(file)) == "half":
        raise ModelError(
            f"the MLflow store {file} is incomplete and holds no runs, since its creation was interrupted; "
            f"remove it with rm {shlex.quote(str(file))}, then start again"
        )
    if contents == "other":
        raise ModelError(
            f"{file} holds other tables than an MLflow store: choose another with --tracking-uri "
            "sqlite:///FILE"
        )


def _contents(file: Path) -> Literal["nothing", "half", "other", "store"]:
    """Return the contents of an SQLite file: nothing, half a store, another database, or a finished store.

    Half a store has no experiment yet: MLflow first creates tables, then migrates them one by one, and adds
    an experiment last.
    """
    if not file.is_file() or not file.stat().st_size:
        return "nothing"
    try:
        # Open for writing: SQLite must be able to roll back the transaction of a killed process.
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)) as database:
            found = database.execute("select name from sqlite_master where type = 'table'")
            tables = {name for (name,) in found}
            if not tables:
                return "nothing"
            if not tables & {"alembic_version", "experiments"}:
                return "other"
            if {"alembic_version", "experiments"} <= tables:
                filled = database.execute("select 1 from experiments limit 1").fetchone()
                return "store" if filled else "half"
            return "half"
    except sqlite3.Error:  # the file is locked or damaged: the error that MLflow raises gives the reason
        return "store"


def _check_server(uri: str) -> None:
    """Check that a server answers at ``uri``.

    Raises:
        ModelError: no server answers.
    """
    # Drop the login: urllib does not accept one in a URL, and this request needs none.
    public, _ = split_login(uri)
    try:
        with urllib.request.urlopen(f"{public}/health", timeout=_PROBE_TIMEOUT_S):
            return
    except urllib.error.HTTPError as answer:  # an HTTP error shows that a server answers
        answer.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ModelError(
            f"no MLflow server answers at {uri} ({reason}): start one with statecast ui, or choose another "
            "store with --tracking-uri"
        ) from error


@dataclass(frozen=True)
class Reference:
    """A reference to a model: a folder, a run, or a version number or alias of a registered model.

    Attributes:
        text: the reference as it was given.
        folder: a local folder with a saved forecaster. If ``run_id`` or ``name`` is set, too, the text is
            ambiguous, and the folder is meant only if the store has no such run or name.
        run_id: a run that logged a model.
        name: a registered model; ``version`` or else ``alias`` selects the version.
        version: version number.
        alias: alias of a version.
    """

    text: str
    folder: Path | None = None
    run_id: str | None = None
    name: str | None = None
    version: int | None = None
    alias: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the reference can only mean a folder."""
        return self.name is None and self.run_id is None

    @staticmethod
    def parse(text: str) -> Reference:
        """Parse ``NAME``, ``NAME@ALIAS``, ``NAME/3``, a run's id, or a folder.

        The prefix ``models:/`` is allowed. ``./NAME`` is always the folder, and ``models:/NAME`` always the
        registered model.

        Raises:
            ModelError: ``text`` is none of these.
        """
        ref = text.strip()
        if ref.startswith("runs:/"):
            run_id, _, path = ref.removeprefix("runs:/").partition("/")
            if path.rstrip("/") not in ("", "model") or not _RUN_ID.fullmatch(run_id):
                raise ModelError(f"{text!r} names no model of a run: write runs:/RUN_ID/model")
            return Reference(text, run_id=run_id)
        folder = None
        if not ref.startswith("models:/"):
            folder = Path(os.path.expanduser(ref))
            if not ref or not any(folder.glob("*.safetensors")):
                folder = None
            if ref.startswith((".", "/", "~")):
                if folder is None:
                    raise ModelError(
                        f"{text} is not a folder with a saved forecaster: name one, or a registered model as "
                        "NAME, NAME@ALIAS or NAME/3"
                    )
                return Reference(text, folder)
            if _RUN_ID.fullmatch(ref):
                return Reference(text, folder, run_id=ref)
        ref = ref.removeprefix("models:/")
        if match := re.fullmatch(rf"({_NAME})/(\d+)", ref):
            return Reference(text, folder, name=match[1], version=int(match[2]))
        if match := re.fullmatch(rf"({_NAME})(?:@([\w.-]+))?", ref):
            return Reference(text, folder, name=match[1], alias=match[2] or DEFAULT_ALIAS)
        if folder is not None:
            return Reference(text, folder)
        raise ModelError(
            f"{text!r} names no model: write NAME, NAME@ALIAS, NAME/3, runs:/RUN_ID/model or a folder"
        )


def check_model_name(name: str) -> None:
    """Check that a model can be registered under ``name``, before time is spent on training.

    Raises:
        ModelError: ``name`` is empty, looks like a run id, or contains a slash, colon, at sign or quote.
    """
    if not re.fullmatch(_NAME, name) or _RUN_ID.fullmatch(name):
        raise ModelError(f"{name!r} cannot name a model: use letters, digits, spaces, dots, - and _")


def check_alias(alias: str) -> None:
    """Check that MLflow accepts ``alias``, and that it cannot be read as a version number.

    Raises:
        ModelError: ``alias`` has other characters than letters, digits, dots, - and _, or is like ``v3`` or
            ``latest``.
    """
    if not re.fullmatch(r"[\w.-]+", alias) or re.fullmatch(r"(?i)v\d+|latest", alias):
        raise ModelError(
            f"{alias!r} cannot be an alias: use letters, digits, dots, - and _ (not latest or v3)"
        )


def registry_of(tracking: Store, registry_uri: str | SecretStr) -> Store:
    """Return the store of registered models: the store of runs ``tracking`` if ``registry_uri`` is empty."""
    text = registry_uri if isinstance(registry_uri, str) else registry_uri.get_secret_value()
    return Store.parse(text) if text.strip() else tracking


def ui_command(tracking_uri: str | SecretStr, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """Return the command that serves MLflow's pages for a store until it is stopped, for `subprocess`.

    Run it with the environment of `ui_environment`, which contains the address of the store: the arguments of
    a process are visible to all users of a machine, and the address can contain a password. A SIGTERM to the
    command also ends its worker processes.

    Raises:
        ModelError: ``tracking_uri`` is an http server, which has its own pages, or is not a store.
    """
    store = Store.parse(tracking_uri)
    if store.uri.startswith("http"):
        raise ModelError(f"{store} is a server already: open it in a browser")
    store.check()
    command = [sys.executable, "-m", "mlflow", "server"]
    if store.artifacts is not None:
        # Set the folder of artifacts: by default MLflow would write them into the working folder.
        place = store.artifacts.as_uri()
        command += ["--default-artifact-root", place, "--artifacts-destination", place]
    return [*command, "--host", host, "--port", str(port), "--workers", "1"]


def ui_environment(tracking_uri: str | SecretStr, registry_uri: str | SecretStr = "") -> dict[str, str]:
    """Return the environment for `ui_command`: the store, no usage reports, no workers for language models.

    Args:
        tracking_uri: store of runs.
        registry_uri: store of registered models; empty for the store of runs.
    """
    tracking = Store.parse(tracking_uri)
    registry = registry_of(tracking, registry_uri)
    return {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": tracking.uri,
        **({} if registry == tracking else {"MLFLOW_REGISTRY_STORE_URI": registry.uri}),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
