"""Helpers for tests of the search for Prism: scripts that replace it, and a machine without Prism and Go."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.runners import prism_binary


def prism_of(version: str, body: str = "exit 0") -> str:
    """Return a shell script in which `prism_binary` finds ``version``, as in a real Prism binary."""
    return f"{body}\n# path\t{prism_binary.PACKAGE}\n# mod\tgithub.com/apache/beam/sdks/v2\t{version}\th1:x"


def current_prism(body: str = "exit 0") -> str:
    """Return a shell script that `prism_binary` accepts as the Prism of the installed version of Beam."""
    return prism_of(f"v{prism_binary.beam_version()}", body)


def write_script(path: Path, body: str) -> Path:
    """Write an executable shell script, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def without_prism_and_go(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Let a test run as on a machine without Prism and Go, and without uv and pip, which could install Go."""
    for name in ("STATECAST_PRISM", "XDG_CACHE_HOME", "GOBIN", "GOPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(prism_binary, "package_installer", lambda: None)
