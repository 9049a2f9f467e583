"""A PostgreSQL server in a temporary folder, which listens on a Unix socket and on loopback."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import EngineError
from tests.cluster.process import Server, free_port


@dataclass(frozen=True)
class Postgres:
    """A running PostgreSQL server with the empty database ``mlflow`` and a user of the same name.

    Attributes:
        programs: the folder of PostgreSQL's programs.
        folder: the folder of the socket, of the log and of the password file.
        port: the port on loopback, which is also in the name of the socket.
        password: the password of the user ``mlflow``.
    """

    programs: Path
    folder: Path
    port: int
    password: str

    def environment(self, user: str = "mlflow") -> dict[str, str]:
        """Return environment variables for a PostgreSQL client of ``user``; none contains a password."""
        return {
            "PGHOST": str(self.folder),
            "PGPORT": str(self.port),
            "PGUSER": user,
            "PGPASSFILE": str(self.folder / "passwords"),
        }

    def call(self, program: str, *arguments: str, user: str = "mlflow") -> str:
        """Run a program of PostgreSQL against the server, and return its output."""
        done = subprocess.run(
            [self.programs / program, "--no-password", *arguments],
            env={**os.environ, **self.environment(user)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout


def find_programs() -> Path:
    """Return Debian's folder of PostgreSQL programs, or else the folder of the ``initdb`` on the search path.

    Raises:
        EngineError: PostgreSQL is not installed.
    """
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    folders += [Path(on_path).resolve().parent] if on_path else []
    for folder in folders:
        if (folder / "initdb").is_file():
            return folder
    raise EngineError("PostgreSQL is not installed; on Debian, run apt-get install postgresql")


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Run a new PostgreSQL server while the block runs; each connection to it needs a password.

    The folder is directly in the system's temporary folder, because the path of a Unix socket may have at
    most 107 bytes.

    Raises:
        EngineError: PostgreSQL is not installed or does not start.
    """
    programs = find_programs()
    # initdb refuses to run as root, so root runs the server as the user that Debian's package creates.
    as_user = (
        ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    )
    with tempfile.TemporaryDirectory(prefix="statecast-pg-") as name:
        folder, port = Path(name), free_port()
        owner_password, password = secrets.token_urlsafe(), secrets.token_urlsafe()
        (folder / "owner").write_text(owner_password)
        if as_user:
            for path in (folder, folder / "owner"):
                shutil.chown(path, "postgres", "postgres")
        subprocess.run(
            [*as_user, f"{programs}/initdb", "--pgdata", f"{folder}/data", "--username=postgres", "--no-sync",
             "--auth=scram-sha-256", "--pwfile", f"{folder}/owner", "--encoding=UTF8", "--locale=C.UTF-8"],
            check=True, capture_output=True, cwd=folder,
        )  # fmt: skip
        passwords = folder / "passwords"
        passwords.touch(0o600)
        passwords.write_text(f"*:*:*:postgres:{owner_password}\n*:*:*:mlflow:{password}\n")
        postgres = Postgres(programs, folder, port, password)
        command = [*as_user, f"{programs}/postgres", "-D", f"{folder}/data", "-k", name, "-h", "127.0.0.1"]
        server = Server("postgres", folder, [*command, "-p", str(port), "-c", "fsync=off"])
        is_ready = [f"{programs}/pg_isready", "--quiet", "--host", name, "--port", str(port)]
        server.start(lambda: subprocess.run(is_ready, check=False).returncode == 0)
        try:
            for statement in (
                f"CREATE ROLE mlflow LOGIN PASSWORD '{password}'",
                "CREATE DATABASE mlflow OWNER mlflow",
            ):
                postgres.call(
                    "psql", "--quiet", "--dbname=postgres", f"--command={statement}", user="postgres"
                )
            yield postgres
        finally:
            server.stop()
