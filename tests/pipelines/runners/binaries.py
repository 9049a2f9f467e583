"""Stand-ins for programs, on a machine that has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.runners import prism_binary


def prism_of(version: str, body: str = "exit 0") -> str:
    """The body of a script that Go would have built as a Prism."""
    return f"{body}\n# path\t{prism_binary.PACKAGE}\n# mod\tgithub.com/apache/beam/sdks/v2\t{version}\th1:x"


def ours(body: str = "exit 0") -> str:
    """The body of a script that is a Prism of Beam's version."""
    return prism_of(f"v{prism_binary.beam_version()}", body)


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def nowhere(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """A machine without Prism, Go or a way to the release page."""
    for name in ("STATECAST_PRISM", "XDG_CACHE_HOME", "GOBIN", "GOPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(prism_binary, "package_installer", lambda: None)
