"""Object stores for tests: an S3 server in this process (moto), and a store in memory."""

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
from pipelines.storage import Location, Remote, store_of


def on_disk(place: Location) -> Path:
    """Return a location on a disk as a path; fail for any other location."""
    assert isinstance(place, Path)
    return place


def forecasts_written(output: Location) -> int:
    """Return the number of forecasts in the files of an output folder, repeated forecasts included."""
    return sum(len(pl.read_parquet(store_of(file).source())) for file in (output / FORECASTS).glob("*"))


_REQUESTS = Remote._requests
_LOCK = threading.RLock()


@contextmanager
def s3_server() -> Iterator[Remote]:
    """Run an S3 server in this process, and yield a new bucket.

    While the block runs, environment variables have the address and the credentials of the server.
    """
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "unsaid",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        with patch.dict(os.environ, environment):
            # Clear the cached S3 clients, because they are connected to an earlier server.
            s3fs.S3FileSystem.clear_instance_cache()
            # The bucket needs a new name, because all servers of a process share their buckets.
            name = f"bucket-{uuid4().hex[:8]}"
            s3fs.S3FileSystem(use_listings_cache=False).mkdir(name)
            yield Remote(f"s3://{name}")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


@contextmanager
def in_memory() -> Iterator[Remote]:
    """Yield an empty prefix of an object store in memory.

    Only one thread may use it at a time, because the store is a plain dict.
    """

    @contextmanager
    def one_by_one(self: Remote) -> Iterator[Any]:
        with _LOCK, _REQUESTS(self) as store:
            yield store

    with patch.object(Remote, "_requests", one_by_one):
        place = Remote(f"memory://{uuid4().hex}/out")
        try:
            yield place
        finally:
            place.parent.remove_below()


Objects = dict[str, Any]
"""Objects of a store in memory by key; a shallow copy suffices: objects are replaced, never changed."""


def objects(place: Remote, but: tuple[str, ...] = ()) -> Objects:
    """Return the objects under a prefix of a store in memory, by key.

    An object is left out if its path, relative to the prefix, begins with one of ``but``.
    """
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
    """Delete all objects under a prefix of a store in memory, then store the earlier objects ``kept``."""
    import fsspec

    with _LOCK:
        every = fsspec.filesystem("memory").store
        for key in objects(place):
            del every[key]
        every.update(kept)


def _key(place: Remote) -> str:
    return place.url.removeprefix("memory:/") + "/"


def keys(place: Remote) -> list[str]:
    """Return the keys of the objects under a prefix, sorted and relative to the prefix."""
    return sorted(path.url.removeprefix(f"{place.url}/") for path in place.below())
