"""Where models live: addresses of MLflow stores, and references to the models in them.

Imports no MLflow, so that a wrong address is refused at once.
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
    """The address of an MLflow store: ``sqlite:///FILE``, ``http(s)://HOST`` or another database of MLflow's.

    Attributes:
        uri: as MLflow takes it, with a password that it may hold; the path of an SQLite file is absolute.
        database: the file of an SQLite store, None for any other.
    """

    uri: str = field(repr=False)
    database: Path | None

    def __str__(self) -> str:
        """The address without a name and a password."""
        return masked(self.uri)

    @staticmethod
    def parse(uri: str | SecretStr) -> Store:
        """The store at ``uri``, which need not exist yet.

        Raises:
            ModelError: ``uri`` is no address that MLflow can use.
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
            f"{text!r} is no MLflow store: write sqlite:///mlflow.db, or the http address of a server"
        )

    @property
    def artifacts(self) -> Path | None:
        """The folder ``mlartifacts`` beside an SQLite file; None where the server chooses."""
        return None if self.database is None else self.database.parent / "mlartifacts"

    def exists(self) -> bool:
        """Whether there is a store to read from; a server is taken to have one."""
        return self.database is None or _contents(self.database) == "store"

    def check_exists(self) -> None:
        """Refuses a store that there is nothing in to look for.

        Raises:
            ModelError: nobody has made it yet.
        """
        if not self.exists():
            raise ModelError(
                f"there is no MLflow store at {self.database}: train a model with statecast train, or "
                "name the store with --tracking-uri"
            )

    def check(self) -> None:
        """Refuses in a moment what MLflow would refuse late, in many lines or not at all.

        Raises:
            ModelError: an SQLite file that cannot be made, written or is none; a server that does not answer.
        """
        if self.database is not None:
            _check_file(self.database)
        elif self.uri.startswith("http"):
            _check_server(self.uri)


def _check_file(file: Path) -> None:
    if not file.parent.is_dir():
        raise ModelError(f"the MLflow store {file} cannot be made: run mkdir -p {file.parent} first")
    if file.is_dir():
        raise ModelError(
            f"the MLflow store {file} is a folder: name a file, such as sqlite:///{file}/mlflow.db"
        )
    try:  # asking is not knowing: root is told yes on a read-only disk, and MLflow would try for two minutes
        if file.exists():
            file.open("r+b").close()
        with tempfile.TemporaryFile(dir=file.parent):  # SQLite keeps a journal beside the file
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
                f"{file} is no SQLite database: move it away, or choose another with --tracking-uri"
            )
    if (contents := _contents(file)) == "half":
        raise ModelError(
            f"the MLflow store {file} is half made and holds no runs: whatever made it was interrupted; "
            f"remove it with rm {shlex.quote(str(file))}, then start again"
        )
    if contents == "other":
        raise ModelError(
            f"{file} holds other tables than an MLflow store: choose another with --tracking-uri "
            "sqlite:///FILE"
        )


def _contents(file: Path) -> Literal["nothing", "half", "other", "store"]:
    """Return what an SQLite file holds; ``half`` is a store without its first experiment.

    MLflow writes tables first, then migrates them one by one, and adds an experiment last.
    """
    if not file.is_file() or not file.stat().st_size:
        return "nothing"
    try:
        # Not read-only: SQLite cannot roll back what a killed process left then.
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
    except sqlite3.Error:  # it is locked or damaged: MLflow says which
        return "store"


def _check_server(uri: str) -> None:
    public, _ = split_login(uri)  # urllib takes no login from a URL, and to see who answers needs none
    try:
        with urllib.request.urlopen(f"{public}/health", timeout=_PROBE_TIMEOUT_S):
            return
    except urllib.error.HTTPError as answer:  # whatever it says, somebody answers
        answer.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ModelError(
            f"no MLflow server answers at {uri} ({reason}): start one with statecast ui, or choose another "
            "store with --tracking-uri"
        ) from error


@dataclass(frozen=True)
class Reference:
    """What names a model: a folder, a run, or a version number or an alias of a registered name.

    Attributes:
        text: as it was given.
        folder: a local folder that a forecaster was saved in. Where a run or a name is given, too, the folder
            only happens to be called so, and is meant where the store knows no such run or name.
        run_id: a run that logged a model.
        name: a registered model, of which ``version`` or else ``alias`` is meant.
        version: its version number.
        alias: its alias.
    """

    text: str
    folder: Path | None = None
    run_id: str | None = None
    name: str | None = None
    version: int | None = None
    alias: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether nothing but a folder can be meant."""
        return self.name is None and self.run_id is None

    @staticmethod
    def parse(text: str) -> Reference:
        """Reads ``NAME``, ``NAME@ALIAS`` or ``NAME/3`` (also behind ``models:/``), a run's id, or a folder.

        ``./NAME`` is always the folder, and ``models:/NAME`` always the registered model.

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
                        f"{text} is no folder with a saved forecaster: name one, or a registered model as "
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
    """Refuses a name that a model cannot be registered under, before anything is trained for it.

    Raises:
        ModelError: ``name`` is empty, looks like a run id, or holds a slash, colon, at sign or quote.
    """
    if not re.fullmatch(_NAME, name) or _RUN_ID.fullmatch(name):
        raise ModelError(f"{name!r} cannot name a model: use letters, digits, spaces, dots, - and _")


def check_alias(alias: str) -> None:
    """Refuses an alias that MLflow would not take, or that would hide a version number.

    Raises:
        ModelError: ``alias`` is not letters, digits, dots, - and _, or reads as ``v3`` or ``latest``.
    """
    if not re.fullmatch(r"[\w.-]+", alias) or re.fullmatch(r"(?i)v\d+|latest", alias):
        raise ModelError(
            f"{alias!r} cannot be an alias: use letters, digits, dots, - and _ (not latest or v3)"
        )


def registry_of(tracking: Store, registry_uri: str | SecretStr) -> Store:
    """The store of registered models; an empty address names the store of runs."""
    text = registry_uri if isinstance(registry_uri, str) else registry_uri.get_secret_value()
    return Store.parse(text) if text.strip() else tracking


def ui_command(tracking_uri: str | SecretStr, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """The command that serves MLflow's pages for a store, for `subprocess`; it runs until it is ended.

    To be run with `ui_environment`, which names the store: everybody on a machine can read the arguments of
    its processes. A SIGTERM to the command ends its worker processes too.

    Raises:
        ModelError: ``tracking_uri`` is an http server, which has pages of its own, or is no store.
    """
    store = Store.parse(tracking_uri)
    if store.uri.startswith("http"):
        raise ModelError(f"{store} is a server already: open it in a browser")
    store.check()
    command = [sys.executable, "-m", "mlflow", "server"]
    if store.artifacts is not None:
        # Without these MLflow would lay artifacts down in the working folder.
        place = store.artifacts.as_uri()
        command += ["--default-artifact-root", place, "--artifacts-destination", place]
    return [*command, "--host", host, "--port", str(port), "--workers", "1"]


def ui_environment(tracking_uri: str | SecretStr, registry_uri: str | SecretStr = "") -> dict[str, str]:
    """The environment for `ui_command`: the store, no usage reports, and no workers for language models.

    Args:
        tracking_uri: store of runs.
        registry_uri: store of registered models; empty: the same.
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
