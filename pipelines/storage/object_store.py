"""Objects and prefixes in an object store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from io import BytesIO

from pipelines.storage import lease
from pipelines.storage.remote import Remote
from pipelines.storage.replaced_parts import complete_in_store, read_from_store, replace_in_store
from pipelines.storage.store import Held, Store, T, Target

_SECOND_NS = 10**9


class ObjectStore(Store):
    """An object or a prefix in an object store: an object appears complete and durable with one PUT."""

    has_folders = False
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
    ) -> bool:
        """Put the object with one request."""
        data = _content(write)
        if is_ours is not None and not is_ours():
            return False
        self._place.write_bytes(data)
        return True

    def version(self) -> str:
        """Return the version of the object; "" if the store has no conditional PUT."""
        return self._place.version()

    def write_owned(
        self, write: Callable[[Target], object], seen: str, is_ours: Callable[[], bool]
    ) -> str | None:
        """Put the object if it has the version ``seen``; else check the owner again, and repeat."""
        data = _content(write)
        while is_ours():
            put = self._place.replace(data, seen)
            if put is not None:
                return put
            seen = self._place.version()
        return None

    def source(self) -> BytesIO:
        """Return the whole object as a buffer."""
        return BytesIO(self._place.read_bytes())

    def written_ns(self) -> int:
        """Return the time in the listing that returned the location; 0 if no listing did."""
        return self._place.written_ns

    def written_before_ns(self) -> int:
        """List the object, and return the end of the second in which it was put."""
        listed = self._place.parent.glob(self._place.name)
        return max(path.written_ns // _SECOND_NS + 1 for path in listed) * _SECOND_NS

    def sync(self) -> None:
        """Do nothing, because objects are durable."""

    def make_folder(self) -> None:
        """Do nothing."""

    def prepare(self, parts: Iterable[str]) -> None:
        """Do nothing: the lease of the job has shown that the prefix can be written to."""

    def remove_tree(self) -> None:
        """Delete the objects under the prefix."""
        with suppress(OSError):
            self._place.remove_below()

    def free_bytes(self) -> None:
        """Return None."""

    def check_writable(self) -> None:
        """Put an object and delete it."""
        lease.check_writable(self._place)

    def copy_beside(self, name: str, never_change: Callable[[str], bool]) -> Remote:
        """Copy the objects within the store."""
        target = self._place.with_name(name)
        for path in self._place.glob("[!.]*"):
            path.copy(target / path.name)
        return target

    def locked(self) -> AbstractContextManager[Held]:
        """Hold a lease."""
        return lease.leased(self._place)

    def was_locked(self) -> bool:
        """Return whether a lease exists, held or released."""
        return lease.was_leased(self._place)

    def replace_parts(self, hidden: str, parts: Sequence[str]) -> None:
        """Put a manifest, and copy the parts."""
        replace_in_store(self._place / hidden, self._place, parts)

    def complete_replacement(self, hidden: str) -> None:
        """Complete the copies."""
        complete_in_store(self._place / hidden, self._place)

    def read_consistently(self, read: Callable[[Remote], T]) -> T:
        """Read the part again if it was replaced meanwhile."""
        return read_from_store(self._place, read)


def _content(write: Callable[[Target], object]) -> bytes:
    data = BytesIO()
    write(data)
    return data.getvalue()
