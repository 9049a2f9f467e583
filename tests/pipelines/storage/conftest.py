"""Fixture for tests of storage: an empty folder on a disk, in memory, and on an S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.storage import Location
from tests.stores import in_memory


@pytest.fixture(params=["disk", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    """Return an empty folder; each test runs on a disk, in memory, and on an S3 server."""
    if request.param == "disk":
        yield tmp_path
    elif request.param == "memory":
        with in_memory() as made:
            yield made
    else:
        yield request.getfixturevalue("s3")
