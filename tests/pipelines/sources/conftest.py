from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """An empty folder to watch."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"
