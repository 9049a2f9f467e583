"""Fixtures of tests that write outputs: a bucket of an S3 server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.storage import Remote
from tests.stores import s3_server


@pytest.fixture(scope="session")
def bucket() -> Iterator[Remote]:
    """A bucket of an S3 server."""
    with s3_server() as bucket:
        yield bucket


@pytest.fixture
def s3(bucket: Remote) -> Iterator[Remote]:
    """An empty prefix in the bucket of the S3 server; its objects are deleted after the test."""
    yield bucket / "out"
    bucket.remove_below()
