"""Implement the operations on objects and prefixes in an object store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from io import BytesIO
from typing import IO

from pipelines.storage import lease
from pipelines.storage.remote import Remote
from pipelines.storage.replaced_parts import complete_in_store, read_from_store, replace_in_store
from pipelines.storage.store import Held, Store, T, Target


class ObjectStore(Store):
    """An object or a prefix in an object store; one PUT makes an object complete and durable."""

    bills_requests = True
    can_append = False
    on_disk = None

    def __init__(self, place: Remote) -> None:
        self._place = place

    def write_whole(
        self,
        write: Callable[[Target], object],
        *,
        kept: bool = False,
        is_ours: Callable[[], bool] | None = None,
        seen: str | None = None,
    ) -> str | None:
        content = BytesIO()
        write(content)
        while is_ours is None or is_ours():
            if seen is None:
                self._place.write_bytes(content.getvalue())
                return ""
            put = self._place.replace(content.getvalue(), seen)
            if put is not None:
                return put
            seen = self._place.version()
        return None

    def version(self) -> str:
        return self._place.version()

    def source(self) -> BytesIO:
        return BytesIO(self._place.read_bytes())

    def open_parts(self) -> AbstractContextManager[IO[bytes]]:
        return self._place.open_parts()

    def written_ns(self) -> int:
        if self._place.written_ns:
            return self._place.written_ns
        listed = [path.written_ns for path in self._place.parent.glob(self._place.name)]
        if not listed:
            raise FileNotFoundError(f"{self._place}: it does not exist")
        return listed[0]

    def sync(self) -> None:
        """Do nothing, because objects are durable."""

    def make_folder(self) -> None:
        """Do nothing, because an object store has no folders."""

    def remove_tree(self) -> None:
        with suppress(OSError):
            self._place.remove_below()

    def check_writable(self) -> None:
        lease.check_writable(self._place)

    def prepare(self, parts: Iterable[str] = ()) -> None:
        """Do nothing: an object store has no folders to create, and keeps no incomplete objects."""

    def locked(self) -> AbstractContextManager[Held]:
        return lease.leased(self._place)

    def copy_beside(self, name: str, never_change: Callable[[str], bool]) -> Remote:
        target = self._place.with_name(name)
        for path in self._place.glob("[!.]*"):
            path.copy(target / path.name)
        return target

    def replace_parts(self, hidden: str, parts: Sequence[str]) -> None:
        replace_in_store(self._place / hidden, self._place, parts)

    def complete_replacement(self, hidden: str) -> None:
        complete_in_store(self._place / hidden, self._place)

    def read_consistently(self, read: Callable[[Remote], T]) -> T:
        return read_from_store(self._place, read)
