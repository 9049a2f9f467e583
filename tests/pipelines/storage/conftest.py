from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.storage import Location, Remote
from tests.stores import in_memory, s3_server


@pytest.fixture(scope="session")
def bucket() -> Iterator[Remote]:
    """A bucket of an S3 server."""
    with s3_server() as bucket:
        yield bucket


@pytest.fixture
def s3(bucket: Remote) -> Iterator[Remote]:
    """An empty prefix in it."""
    yield bucket / "out"
    bucket.remove_below()


@pytest.fixture(params=["disk", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    """An empty folder, wherever it lies."""
    if request.param == "disk":
        yield tmp_path
    elif request.param == "memory":
        with in_memory() as made:
            yield made
    else:
        yield request.getfixturevalue("s3")
