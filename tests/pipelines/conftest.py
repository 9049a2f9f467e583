"""Fixtures for tests of pipelines: an S3 server with a bucket, and empty pictures in MLflow runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.storage import Remote
from tests.stores import s3_server


class _EmptyCanvas:
    """Takes the place of Matplotlib's canvas: a picture is an empty file."""

    def __init__(self, figure: object) -> None:
        pass

    def print_png(self, file: str) -> None:
        Path(file).touch()


@pytest.fixture
def pictures() -> None:
    """Let the runs of a test log pictures; see `_empty_pictures`."""


@pytest.fixture(autouse=True)
def _empty_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs log empty files as pictures, unless the test requests ``pictures``.

    A training logs ten pictures or more, and takes 0.3 s to draw each.
    """
    if "pictures" not in request.fixturenames and "forecaster.registry.run" in sys.modules:
        monkeypatch.setattr("forecaster.registry.run.FigureCanvasAgg", _EmptyCanvas)


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
