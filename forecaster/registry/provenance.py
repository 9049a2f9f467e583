"""The origin of a run: the commit of the working folder, the versions of the software, and the machine."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_BRANCH,
    MLFLOW_GIT_COMMIT,
    MLFLOW_GIT_DIRTY,
    MLFLOW_GIT_REPO_URL,
)

from schemas.masking import masked

_GIT_TIMEOUT_S = 10.0


def provenance() -> dict[str, str]:
    """Return tags about the origin of a run; a tag whose value cannot be found is left out."""
    return _git_tags(Path.cwd()) | {
        **{
            f"statecast.{name}_version": found for name in ("statecast", "torch") if (found := _version(name))
        },
        "statecast.python_version": platform.python_version(),
        "statecast.host": socket.gethostname(),
        "statecast.cores": str(len(os.sched_getaffinity(0))),
    }


def _git_tags(folder: Path) -> dict[str, str]:
    """Return tags with the commit, branch and URL of a folder's git repository, and whether that is dirty.

    MLflow itself would look in the folder of the program, such as the ``bin`` of an environment, which git
    ignores. A repository is dirty if a tracked file differs from the commit.
    """
    if (commit := _git(folder, "rev-parse", "HEAD")) is None:
        return {}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    found = {
        MLFLOW_GIT_COMMIT: commit,
        MLFLOW_GIT_DIRTY: None if changes is None else str(bool(changes)).lower(),
        MLFLOW_GIT_BRANCH: _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        MLFLOW_GIT_REPO_URL: _git(folder, "remote", "get-url", "origin"),
    }
    return {name: masked(value) for name, value in found.items() if value}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command; None if git is absent, fails, or takes over 10 s."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
