"""Check, without importing MLflow, that the file of a store can be used, or that its server answers."""

from __future__ import annotations

import http.client
import shlex
import sqlite3
import tempfile
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Literal

from schemas.errors import ModelError
from schemas.masking import split_login

_PROBE_TIMEOUT_S = 5.0


def check_file(file: Path) -> None:
    """Check that an SQLite file can be created or written, and holds a complete MLflow store or nothing.

    A locked or damaged SQLite file passes the check: MLflow reports the reason later.

    Raises:
        ModelError: the file cannot be used, or it holds an incomplete store or other data.
    """
    if not file.parent.is_dir():
        raise ModelError(
            f"the MLflow store {file} cannot be created: its folder is missing; "
            f"run mkdir -p {file.parent} first"
        )
    if file.is_dir():
        raise ModelError(
            f"the MLflow store {file} is a folder: name a file, such as sqlite:///{file}/mlflow.db"
        )
    # Open the file for writing instead of calling `os.access`, which does not tell the reason of a failure.
    try:
        if file.exists():
            file.open("r+b").close()
        # SQLite writes a rollback file beside the database, so the folder must be writable, too
        with tempfile.TemporaryFile(dir=file.parent):
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
    if (contents := contents_of(file)) == "half":
        raise ModelError(
            f"the MLflow store {file} is incomplete and holds no runs, since its creation was interrupted; "
            f"remove it with rm {shlex.quote(str(file))}, then start again"
        )
    if contents == "other":
        raise ModelError(
            f"{file} holds other tables than an MLflow store: choose another with --tracking-uri "
            "sqlite:///FILE"
        )


def contents_of(file: Path) -> Literal["nothing", "half", "other", "store"]:
    """Return what an SQLite file holds: nothing, half a store, another database, or a complete store.

    A missing file holds nothing, and a locked or damaged file counts as a complete store. Half a store has no
    experiment yet: MLflow first creates tables, then migrates them one by one, and adds an experiment last.
    """
    if not file.is_file() or not file.stat().st_size:
        return "nothing"
    try:
        # Open for writing, so that SQLite can first roll back an unfinished transaction of a killed process.
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
    except sqlite3.Error:  # count a locked or damaged file as a store: MLflow reports the reason later
        return "store"


def check_server(uri: str) -> None:
    """Check that a server answers at ``uri``, within 5 s.

    Raises:
        ModelError: no server answers.
    """
    # Remove the login: urllib accepts no URL with a login, and this request needs none.
    public, _ = split_login(uri)
    try:
        with urllib.request.urlopen(f"{public}/health", timeout=_PROBE_TIMEOUT_S):
            return
    except urllib.error.HTTPError as answer:  # a server that answers with an error status is running, too
        answer.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ModelError(
            f"no MLflow server answers at {uri} ({reason}): start one with statecast ui, or choose another "
            "store with --tracking-uri"
        ) from error
