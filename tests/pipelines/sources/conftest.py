"""Fixture for tests of watched folders: an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """Return a new, empty folder for a source to watch."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"
