"""Object stores for tests: an S3 server of this process (moto's), and one in memory."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import polars as pl

from pipelines.sinks.files import FORECASTS
from pipelines.storage import Location, Remote, source_of


def on_disk(place: Location) -> Path:
    """The path of what lies on a disk."""
    assert isinstance(place, Path)
    return place


def forecasts_written(output: Location) -> int:
    """How many forecasts lie in the files of an output folder, each as often as it is there."""
    return sum(len(pl.read_parquet(source_of(file))) for file in (output / FORECASTS).glob("*"))


_ASKED = Remote._asked
_LOCK = threading.RLock()


@contextmanager
def s3_server() -> Iterator[Remote]:
    """A bucket of a server on this machine; the environment says where it is, and holds credentials."""
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    said = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "unsaid",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        with patch.dict(os.environ, said):
            s3fs.S3FileSystem.clear_instance_cache()  # whose connections are to another server
            name = f"bucket-{uuid4().hex[:8]}"  # all servers of a process are of one store
            s3fs.S3FileSystem(use_listings_cache=False).mkdir(name)
            yield Remote(f"s3://{name}")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


@contextmanager
def in_memory() -> Iterator[Remote]:
    """A prefix of a store in memory, which is asked by one thread at a time: it is no more than a dict."""

    @contextmanager
    def one_by_one(self: Remote) -> Iterator[Any]:
        with _LOCK, _ASKED(self) as store:
            yield store

    with patch.object(Remote, "_asked", one_by_one):
        place = Remote(f"memory://{uuid4().hex}/out")
        try:
            yield place
        finally:
            place.parent.remove_below()


Objects = dict[str, Any]
"""The objects of a store in memory by key; none is ever changed, only put anew."""


def objects(place: Remote, but: tuple[str, ...] = ()) -> Objects:
    """All under a prefix of a store in memory, as of now; save those whose names below it begin like that."""
    import fsspec

    prefix = _key(place)
    with _LOCK:
        every = fsspec.filesystem("memory").store
        return {
            key: every[key]
            for key in every
            if key.startswith(prefix) and not key.removeprefix(prefix).startswith(but)
        }


def put_back(place: Remote, kept: Objects) -> None:
    """Has a prefix of a store in memory hold what it held once, as old as it was."""
    import fsspec

    with _LOCK:
        every = fsspec.filesystem("memory").store
        for key in objects(place):
            del every[key]
        every.update(kept)


def _key(place: Remote) -> str:
    return place.url.removeprefix("memory:/") + "/"


def keys(place: Remote) -> list[str]:
    """What lies under a prefix, without it."""
    return sorted(path.url.removeprefix(f"{place.url}/") for path in place.below())
