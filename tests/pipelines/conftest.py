"""Fixtures for tests that write outputs to an object store: an S3 server with a bucket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.storage import Remote
from tests.stores import s3_server


@pytest.fixture(scope="session")
def bucket() -> Iterator[Remote]:
    """Run an S3 server, and yield a bucket of it."""
    with s3_server() as bucket:
        yield bucket


@pytest.fixture
def s3(bucket: Remote) -> Iterator[Remote]:
    """Yield an empty prefix in the bucket of the S3 server; delete its objects after the test."""
    yield bucket / "out"
    bucket.remove_below()
