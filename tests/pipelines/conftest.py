"""Fixtures for tests of pipelines: an S3 bucket, and faster MLflow runs (empty pictures, few code files)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pipelines.storage import Remote
from tests.stores import s3_server


class _EmptyCanvas:
    """Replacement of Matplotlib's canvas that saves each picture as an empty file."""

    def __init__(self, figure: object) -> None:
        pass

    def print_png(self, file: str) -> None:
        Path(file).touch()


@pytest.fixture(scope="module", autouse=True)
def _empty_pictures() -> Iterator[None]:
    """Let runs log empty files as pictures: a training logs ten or more, and takes 0.2 s to draw each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg", _EmptyCanvas)
        yield


@pytest.fixture(scope="module", autouse=True)
def _little_code() -> Iterator[None]:
    """Let runs log models with the code of `schemas` alone: with `forecaster`, it would be about 170 files.

    If `served_model` is not imported before the first test of a module, the module's runs log all files.
    """
    with pytest.MonkeyPatch.context() as patch:
        served_model: Any = sys.modules.get("forecaster.registry.served_model")
        if served_model is not None:
            patch.setattr(served_model, "_OURS", served_model._OURS[-1:])
        yield


@pytest.fixture(scope="module")
def pictures(_empty_pictures: None) -> Iterator[None]:
    """Let runs log real pictures, not empty files, from the first use in a test module to its last test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg", FigureCanvasAgg)
        yield


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runs of one test log empty files as pictures, even if its module uses `pictures`."""
    monkeypatch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg", _EmptyCanvas)


@pytest.fixture(scope="session")
def bucket() -> Iterator[Remote]:
    """Run an S3 server, and yield a bucket of it."""
    with s3_server() as bucket:
        yield bucket


@pytest.fixture
def s3(bucket: Remote) -> Iterator[Remote]:
    """Yield an empty prefix in the bucket of the S3 server; empty the whole bucket after the test."""
    yield bucket / "out"
    bucket.remove_below()
