"""Read and write objects in a store that fsspec supports, with methods like those of `pathlib.Path`."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeAlias

from schemas.errors import ConfigError, one_line

# The Python package of each supported kind of store. Only stores are supported in which a request can
# create an object and fail if the object exists, because `Remote.create` needs this.
_STORES: Final = {"s3": "'statecast[s3]'", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_ERRNOS: Final[Mapping[type, int]] = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    PermissionError: errno.EACCES,
}
_LARGEST_PUT_BYTES: Final = 5 << 30  # the largest object that S3 accepts in one request
# The listing of a store holds an object's time of writing under one of these keys, depending on the store.
_TIME_KEYS: Final = ("LastModified", "last_modified", "mtime", "updated", "created")


@dataclass(frozen=True, order=True)
class Remote:
    """An object or a prefix in an object store, with methods like those of `pathlib.Path`.

    A Remote can be pickled; it contains no credentials, because fsspec finds them in the environment of each
    process. Every method raises `OSError` for a failed request, with the store's message in one line as
    ``strerror``.

    Attributes:
        url: URL without a slash at its end, such as ``s3://bucket/prefix``.
        written_ns: when the object was written, in nanoseconds since 1970, but with a resolution of seconds;
            0 if the Remote is not from a listing.
    """

    url: str
    written_ns: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The name of the object: the part of the URL after the last slash."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of the object's name, from the last dot on, such as ``.parquet``."""
        return Path(self.name).suffix

    @property
    def parent(self) -> Remote:
        """The prefix of the object: the part of the URL before the last slash."""
        return Remote(self.url.rpartition("/")[0])

    def absolute(self) -> Remote:
        """Return this location itself, because a URL is absolute."""
        return self

    def with_name(self, name: str) -> Remote:
        """Return the location with another name and the same parent."""
        return self.parent / name

    def exists(self) -> bool:
        """Return whether the object exists; use this for small objects only, because it reads the object."""
        try:
            self.read_bytes()
        except FileNotFoundError:
            return False
        return True

    def read_bytes(self) -> bytes:
        """Return the content of the object."""
        with self._requests() as store:
            data: bytes = store.cat_file(self.url)
            return data

    def read_text(self) -> str:
        """Return the content of the object as text."""
        return self.read_bytes().decode()

    def open(self, mode: Literal["rb"]) -> BytesIO:
        """Read the object, and return its content as a file in memory."""
        return BytesIO(self.read_bytes())

    @contextmanager
    def open_parts(self) -> Iterator[IO[bytes]]:
        """Open the object to read parts of it; each read requests only a range of bytes."""
        with self._requests() as store, store.open(self.url, "rb") as file:
            yield file

    def write_bytes(self, data: bytes) -> None:
        """Write the whole object; replace an existing object."""
        with self._requests() as store:
            store.pipe_file(self.url, data)

    def create(self, data: bytes) -> bool:
        """Write the object unless it exists already; return whether it was written."""
        try:
            with self._requests() as store:
                store.pipe_file(self.url, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # Status 409 or 412: the object exists, or another request creates it now.
            if _status(error) not in (409, 412):
                raise
            return False
        return True

    def version(self) -> str:
        """Return the version of the object, for `replace`; "" if the object is missing or not in S3."""
        if not self._replaces_versions:
            return ""
        with suppress(FileNotFoundError), self._requests() as store:
            return str(store.info(self.url).get("ETag", ""))
        return ""

    def replace(self, data: bytes, version: str) -> str | None:
        """Write the object; in S3, write it only if the store still holds the given version of the object.

        In other stores the object is written in any case: fsspec offers a conditional PUT for S3 only.

        Args:
            data: the whole object.
            version: result of `version` or `replace`; "" if the object did not exist.

        Returns:
            The new version; None if the store holds another version and nothing was put.

        Raises:
            OSError: the store cannot be reached, or refuses for another reason.
        """
        if not self._replaces_versions:
            self.write_bytes(data)
            return ""
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        try:
            with self._requests() as store:
                # Send one request, because s3fs ignores `condition` if it puts an object in several parts.
                put = store.pipe_file(self.url, data, chunksize=_LARGEST_PUT_BYTES, **condition)
        except OSError as error:
            # 404: the object is gone; 409: another request writes it now; 412: another request has written it
            refused = (404, 409, 412) if version else (409, 412)
            if _status(error) not in refused:
                raise
            return None
        # s3fs returns None if it has put the object in several parts.
        return self.version() if put is None else str(put["ETag"])

    @property
    def _replaces_versions(self) -> bool:
        return self.url.startswith("s3://")

    def copy(self, target: Remote) -> None:
        """Copy the object to ``target`` within the store."""
        with self._requests() as store:
            store.cp_file(self.url, target.url)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object; most stores raise no error if the object does not exist."""
        try:
            with self._requests() as store:
                store.rm_file(self.url)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def glob(self, pattern: str) -> Iterator[Remote]:
        """Yield the objects directly under this prefix that match a pattern, sorted by name.

        ``written_ns`` of these objects is set.
        """
        for path, written_ns in self._list_files():
            if fnmatchcase(path.name, pattern):
                yield Remote(path.url, written_ns)

    def below(self) -> list[Remote]:
        """Return all objects under this prefix."""
        with self._requests() as store:
            # The store lists keys without a scheme, so the prefix to cut off must have no scheme either.
            bare = store._strip_protocol(self.url)
            return [Remote(self.url + key.removeprefix(bare)) for key in store.find(self.url)]

    def remove_below(self, *but: Remote) -> None:
        """Delete all objects under this prefix, except the objects in ``but``."""
        gone = [path.url for path in self.below() if path not in but]
        if gone:
            with self._requests() as store:
                store.rm(gone)

    def _list_files(self) -> list[tuple[Remote, int]]:
        with self._requests() as store:
            try:
                found = store.ls(self.url, detail=True)
            except FileNotFoundError:
                return []
        files = [(self / one["name"].rpartition("/")[2], _ns(one)) for one in found if one["type"] == "file"]
        return sorted(file for file in files if file[0].name)

    @contextmanager
    def _requests(self) -> Iterator[Any]:
        """Yield the store for requests; convert their exceptions to an `OSError` with a one-line message."""
        try:
            yield _store(self.url)
        except (ConfigError, GeneratorExit):
            raise
        except OSError as error:
            number = next((_ERRNOS[kind] for kind in type(error).__mro__ if kind in _ERRNOS), errno.EIO)
            reason = one_line(error.strerror or (error.args[-1] if error.args else error))
            raise OSError(number, reason) from error  # Python creates the subclass for this errno
        except Exception as error:  # libraries of stores raise errors of many types
            raise OSError(errno.EIO, one_line(error)) from error


Location: TypeAlias = Path | Remote
"""A file or folder on a disk or in an object store."""


def location(text: str | Path) -> Location:
    """Return the location that a path or a URL such as ``s3://bucket/prefix`` names.

    Raises:
        ConfigError: jobs cannot write to such a URL safely, or a package is missing.
    """
    scheme, is_url, rest = str(text).partition("://")
    if not is_url:
        return Path(text)
    if scheme not in _STORES:
        known = ", ".join(f"{name}://" for name in _STORES)
        raise ConfigError(f"{scheme}://: not a store that a job can write to: name a folder, or {known}")
    if "@" in rest.partition("/")[0]:
        raise ConfigError(f"{scheme}://: no credentials in a URL: they belong in the environment")
    if not rest.strip("/").partition("/")[2]:
        raise ConfigError(f"{text}: names a bucket alone: add a prefix, such as {scheme}://bucket/out")
    made = Remote(f"{scheme}://{rest.strip('/')}")
    _store(made.url)
    return made


def _store(url: str) -> Any:
    import fsspec  # imported here: the import is slow, and most jobs write to a disk

    scheme = url.partition("://")[0]
    try:
        # Cache no listings, because other processes write to the store, too.
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        package = _STORES.get(scheme, "fsspec")
        raise ConfigError(f"{scheme}:// needs one more package: pip install {package}") from error


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status of the S3 answer that caused an error; None if no answer caused it."""
    while error is not None:
        if isinstance(answer := getattr(error, "response", None), dict):
            return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        error = error.__cause__
    return None


def _ns(listed: dict[str, Any]) -> int:
    time = next((listed[name] for name in _TIME_KEYS if listed.get(name) is not None), 0)
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    return int((time.timestamp() if isinstance(time, datetime) else time) * 1e9)
