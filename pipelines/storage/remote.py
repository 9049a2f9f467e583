"""Objects in a store that fsspec knows, named as paths are."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from schemas.errors import ConfigError

# Those whose PUT of a whole object is all or nothing, and can be refused where there is one.
_STORES: Final = {"s3": "'statecast[s3]'", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_KINDS: Final[Mapping[type, int]] = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    PermissionError: errno.EACCES,
}
_MOST_BYTES: Final = 5 << 30  # that S3 takes in one request
_TIMES: Final = ("LastModified", "last_modified", "mtime", "updated", "created")  # as stores call it


@dataclass(frozen=True, order=True)
class Remote:
    """An object, or a prefix of objects' keys, with as much of `pathlib.Path` as a job needs.

    It may be pickled; credentials are none of it, fsspec finds them in the environment of each process. Every
    error is an `OSError` whose ``strerror`` says in one line what the store said.

    Attributes:
        url: such as ``s3://bucket/prefix``, without a slash at its end.
        written_ns: when a listing says that it was written, in nanoseconds since 1970; stores know seconds.
    """

    url: str
    written_ns: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of the name, from its last dot on."""
        return Path(self.name).suffix

    @property
    def parent(self) -> Remote:
        """What comes before the last slash."""
        return Remote(self.url.rpartition("/")[0])

    def with_name(self, name: str) -> Remote:
        """Beside it."""
        return self.parent / name

    def exists(self) -> bool:
        """Whether there is an object, to be asked of small ones; of a prefix it is no question."""
        try:
            self.read_bytes()
        except FileNotFoundError:
            return False
        return True

    def read_bytes(self) -> bytes:
        """The whole object."""
        with self._asked() as store:
            data: bytes = store.cat_file(self.url)
            return data

    def read_text(self) -> str:
        """The whole object as text."""
        return self.read_bytes().decode()

    def open(self, mode: Literal["rb"]) -> BytesIO:
        """The whole object as a file."""
        return BytesIO(self.read_bytes())

    def write_bytes(self, data: bytes) -> None:
        """Puts an object: from now on there is all of it, where there was none or another."""
        with self._asked() as store:
            store.pipe_file(self.url, data)

    def create(self, data: bytes) -> bool:
        """Puts an object where there is none; returns whether there was none."""
        try:
            with self._asked() as store:
                store.pipe_file(self.url, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if _status(error) not in (409, 412):  # refused, or the second of two at once
                raise
            return False
        return True

    def version(self) -> str:
        """Return the version of the object, for `replace`; "" of no object, or in a store without such."""
        if not self._replaces_versions:
            return ""
        with suppress(FileNotFoundError), self._asked() as store:
            return str(store.info(self.url).get("ETag", ""))
        return ""

    def replace(self, data: bytes, version: str) -> str | None:
        """Put an object where the store still holds one version of it.

        Stores other than S3 have no such PUT that fsspec passes on: there the object is put in any case.

        Args:
            data: the whole object.
            version: what `version` or `replace` returned; "" where there was no object.

        Returns:
            The new version; None where the store holds another one and has put nothing.

        Raises:
            OSError: the store cannot be reached, or refuses for another reason.
        """
        if not self._replaces_versions:
            self.write_bytes(data)
            return ""
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        try:
            with self._asked() as store:
                # in one request: s3fs drops the condition where it puts an object in parts
                put = store.pipe_file(self.url, data, chunksize=_MOST_BYTES, **condition)
        except OSError as error:
            refused = (404, 409, 412) if version else (409, 412)  # gone, the second of two at once, changed
            if _status(error) not in refused:
                raise
            return None
        return self.version() if put is None else str(put["ETag"])  # None: s3fs put more than fits, in parts

    @property
    def _replaces_versions(self) -> bool:
        return self.url.startswith("s3://")

    def copy(self, target: Remote) -> None:
        """Has the store copy the object."""
        with self._asked() as store:
            store.cp_file(self.url, target.url)

    def unlink(self, missing_ok: bool = False) -> None:
        """Deletes the object; stores do not say whether there was one."""
        try:
            with self._asked() as store:
                store.rm_file(self.url)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def glob(self, pattern: str) -> Iterator[Remote]:
        """The objects right under this prefix, with when each was written; as of now, in order."""
        for path, written_ns in self._listed():
            if fnmatchcase(path.name, pattern):
                yield Remote(path.url, written_ns)

    def below(self) -> list[Remote]:
        """All objects under this prefix."""
        with self._asked() as store:
            # Stores give keys back without their scheme, which may have more than one name.
            bare = store._strip_protocol(self.url)
            return [Remote(self.url + key.removeprefix(bare)) for key in store.find(self.url)]

    def remove_below(self, *but: Remote) -> None:
        """Deletes all objects under this prefix, save some."""
        gone = [path.url for path in self.below() if path not in but]
        if gone:
            with self._asked() as store:
                store.rm(gone)

    def _listed(self) -> list[tuple[Remote, int]]:
        with self._asked() as store:
            try:
                found = store.ls(self.url, detail=True)
            except FileNotFoundError:
                return []
        files = [(self / one["name"].rpartition("/")[2], _ns(one)) for one in found if one["type"] == "file"]
        return sorted(file for file in files if file[0].name)

    @contextmanager
    def _asked(self) -> Iterator[Any]:
        """The store; whatever it raises is told as an `OSError` of one line."""
        try:
            yield _store(self.url)
        except (ConfigError, GeneratorExit):
            raise
        except OSError as error:
            number = next((_KINDS[kind] for kind in type(error).__mro__ if kind in _KINDS), errno.EIO)
            said = _line(error.strerror or (error.args[-1] if error.args else error))
            raise OSError(number, said) from error  # which makes one of the kind that belongs to the number
        except Exception as error:  # the libraries below have errors of their own
            raise OSError(errno.EIO, _line(error)) from error


Location: TypeAlias = Path | Remote
"""A file or folder: on a disk, or in an object store."""


def location(text: str | Path) -> Location:
    """What ``text`` names: a path, or ``s3://bucket/prefix`` and the like.

    Raises:
        ConfigError: it is the URL of what no job can write to safely, or a package is missing.
    """
    scheme, is_url, rest = str(text).partition("://")
    if not is_url:
        return Path(text)
    if scheme not in _STORES:
        known = ", ".join(f"{name}://" for name in _STORES)
        raise ConfigError(f"{scheme}://: not a store that a job can write to: name a folder, or {known}")
    if "@" in rest.partition("/")[0]:
        raise ConfigError(f"{scheme}://: no credentials in a URL: they belong into the environment")
    if not rest.strip("/").partition("/")[2]:
        raise ConfigError(f"{text}: names a bucket alone: add a prefix, such as {scheme}://bucket/out")
    made = Remote(f"{scheme}://{rest.strip('/')}")
    _store(made.url)
    return made


def _store(url: str) -> Any:
    import fsspec  # takes a moment to load, and most jobs write to a disk

    scheme = url.partition("://")[0]
    try:
        # without its cache of listings: others write there, too
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        package = _STORES.get(scheme, "fsspec")
        raise ConfigError(f"{scheme}:// needs one more package: pip install {package}") from error


def _status(error: BaseException | None) -> int | None:
    """The status of HTTP that S3 answered with, whatever the libraries between have made of it."""
    while error is not None:
        if isinstance(answer := getattr(error, "response", None), dict):
            return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        error = error.__cause__
    return None


def _ns(listed: dict[str, Any]) -> int:
    told = next((listed[name] for name in _TIMES if listed.get(name) is not None), 0)
    if isinstance(told, str):
        told = datetime.fromisoformat(told)
    return int((told.timestamp() if isinstance(told, datetime) else told) * 1e9)


def _line(said: object) -> str:
    return " ".join(str(said).split())[:200] or type(said).__name__
