"""Run an MLflow server with the settings in the folder ``mlflow/``, and Statecast commands as its clients."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.cluster.process import Server, free_port
from tests.servers import basic

SHIPPED = Path(__file__).parents[2] / "mlflow"


def variables(file: Path) -> dict[str, str]:
    """Return the variables that a file of lines ``NAME=value`` sets, such as an ``EnvironmentFile``."""
    lines = file.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def service_arguments() -> list[str]:
    """Return the arguments that the systemd unit ``mlflow.service`` passes to the program ``mlflow``."""
    [line] = [
        line
        for line in (SHIPPED / "mlflow.service").read_text().splitlines()
        if line.startswith("ExecStart=")
    ]
    program, *arguments = shlex.split(line.removeprefix("ExecStart="))
    assert Path(program).name == "mlflow"
    return arguments


class TeamServer:
    """An MLflow server with the shipped settings, except for its port and settings that a test changes.

    Attributes:
        folder: the working folder of the server.
        uri: the address for clients.
        admin_password: the first password of the user ``admin``.
        passwords: the password of each user.

    Args:
        folder: a folder for the working folder of the server.
        settings: variables of the environment that the server's machine sets, such as ``PGHOST``.
        without: settings that are left out.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str], without: tuple[str, ...] = ()) -> None:
        self.folder, port = folder, free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self.passwords = {"admin": secrets.token_urlsafe()}
        folder.mkdir(parents=True)
        for name in ("server.env", "basic_auth.ini"):
            shutil.copy(SHIPPED / name, folder)
        secret_settings = {
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.passwords["admin"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        }
        environment = {
            **without_mlflow(),
            **variables(folder / "server.env"),
            **secret_settings,
            "MLFLOW_PORT": str(port),
            **settings,
        }
        for name in without:
            del environment[name]
        command = [sys.executable, "-m", "mlflow", *service_arguments()]
        self._server = Server("mlflow", folder, command, environment)

    @property
    def log(self) -> str:
        """Return the output of the server so far."""
        return self._server.log.read_text()

    @property
    def artifacts(self) -> Path:
        """Return the folder of the MLflow artifacts, which are models, tables and pictures."""
        return self.folder / "mlartifacts"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self._server.start(self._is_ready)

    def stop(self) -> None:
        """Stop the server and its workers."""
        self._server.stop()

    def kill(self) -> None:
        """Kill the server and its workers with SIGKILL."""
        self._server.kill()

    def add_user(self, name: str) -> None:
        """As the administrator, create a user with a random password."""
        self.passwords[name] = secrets.token_urlsafe()
        self.post("users/create", {"username": name, "password": self.passwords[name]}, "admin")

    def post(self, path: str, content: dict[str, Any], user: str) -> Any:
        """Send a request to MLflow's interface as ``user``, and return the decoded answer."""
        request = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/{path}",
            json.dumps(content).encode(),
            {"Content-Type": "application/json", "Authorization": basic(f"{user}:{self.passwords[user]}")},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def login(self, user: str) -> dict[str, str]:
        """Return the environment variables with which a client logs in as ``user``."""
        return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": self.passwords[user]}

    def start_command(self, line: str, desk: Path, **login: str) -> subprocess.Popen[str]:
        """Start a Statecast command in the folder ``desk`` as a client without access to S3."""
        inherited = {name: value for name, value in without_mlflow().items() if not name.startswith("AWS_")}
        environment = {**inherited, "MLFLOW_TRACKING_URI": self.uri, "COLUMNS": "400", **login}
        return subprocess.Popen(
            [Path(sys.executable).parent / "statecast", *shlex.split(line)],
            cwd=desk,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _is_ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
            return True
        return False


def without_mlflow() -> dict[str, str]:
    """Return the environment of this process without the settings of MLflow and of PostgreSQL's clients."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PG"))}
