"""Fixture for tests of runners: an empty cache folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.runners.prism_binary import find_prism


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a test a separate, empty cache folder, and let STATECAST_PRISM name the installed Prism."""
    binary = find_prism()
    assert binary is not None, "run `make setup` first"
    monkeypatch.setenv("STATECAST_PRISM", str(binary))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "statecast"
