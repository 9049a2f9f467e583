from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.runners.prism_binary import find_prism


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set an empty cache folder for one test; STATECAST_PRISM still names the Prism of the machine."""
    binary = find_prism()
    assert binary is not None, "run `make setup` first"
    monkeypatch.setenv("STATECAST_PRISM", str(binary))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "statecast"
