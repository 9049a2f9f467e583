"""Replace several parts of an output together in an object store, which cannot rename objects.

The new parts are written under a hidden prefix. When they are complete, one PUT writes a manifest that lists
them. From this PUT on, `read_from_store` reads the new parts, from the hidden prefix. Then the parts are
copied to their final keys, and the manifest is emptied. If the process dies during the copies, the next job
completes them. Readers without `read_from_store` see old and new parts mixed during the copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar
from uuid import uuid4

from pipelines.storage import markers
from pipelines.storage.remote import Remote
from schemas.errors import DataError, StatecastError
from schemas.sealed import seal, unseal

_TRIES = 5
_PARALLEL_COPIES = 16  # number of parallel copies; a copy only waits for the store

T = TypeVar("T")


def replace_in_store(hidden: Remote, output: Remote, parts: Sequence[str]) -> None:
    """Replace ``parts`` of ``output`` by the parts of the same names under ``hidden``; remove ``hidden``.

    Raises:
        OSError: the store cannot be reached. Either nothing has changed, or the output is new and a call of
            `complete_in_store` completes the copies.
    """
    _write_manifest(hidden, output, parts)
    complete_in_store(hidden, output)


def complete_in_store(hidden: Remote, output: Remote) -> None:
    """Copy the parts that the manifest lists to their final keys, and remove the hidden prefix.

    `replace_in_store` calls this function. If its process dies, the next job calls this function again.

    Raises:
        OSError: the store cannot be reached.
    """
    # The manifest may list parts although the hidden prefix is empty: a user may have restored an old
    # manifest. Then skip the parts: with nothing to copy, `remove_below` would delete their final objects.
    for part in _read_manifest(hidden, output).get("parts", ()) if hidden.below() else ():
        new = [(path, _final_place(path, hidden, output)) for path in (hidden / part).below()]
        with ThreadPoolExecutor(_PARALLEL_COPIES) as pool:
            for done in [pool.submit(path.copy, target) for path, target in new]:
                done.result()
        (output / part).remove_below(*(target for _, target in new))
    if _read_manifest(hidden, output):
        _write_manifest(hidden, output, ())
    with suppress(OSError):
        hidden.remove_below()


def read_from_store(folder: Remote, read: Callable[[Remote], T]) -> T:
    """Read a part of an output that a job may be replacing now; see `Store.read_consistently`.

    Raises:
        StatecastError: raised by ``read``.
        DataError: the folder is replaced during every attempt.
    """
    for _ in range(_TRIES):
        there, manifests = _current(folder)
        try:
            made = read(there)
        except (OSError, StatecastError):
            if manifests == _current(folder)[1]:
                raise
        else:
            if manifests == _current(folder)[1]:
                return made
    raise DataError(f"{folder}: is being replaced repeatedly: read it when its job has ended")


def _current(folder: Remote) -> tuple[Remote, list[dict[str, Any]]]:
    """Return the present place of the part ``folder``, itself or under a hidden prefix, and all manifests."""
    output = folder.parent
    hidden = [output / markers.BACKFILL, output / markers.new_table(folder.name)]
    manifests = [_read_manifest(one, output) for one in hidden]
    there = [
        one / folder.name
        for one, manifest in zip(hidden, manifests, strict=True)
        if folder.name in manifest.get("parts", ())
    ]
    return (there or [folder])[0], manifests


def _write_manifest(hidden: Remote, output: Remote, parts: Sequence[str]) -> None:
    # Each manifest has a new id, by which a reader detects that parts were replaced while it read.
    text = seal({"id": uuid4().hex, "parts": [*parts]})
    _manifest_place(hidden, output).write_bytes(text.encode())


def _read_manifest(hidden: Remote, output: Remote) -> dict[str, Any]:
    place = _manifest_place(hidden, output)
    try:
        content = unseal(place.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{place}: {error}: restore the file") from None
    match content:
        case {"id": str(), "parts": [*parts]} if all(isinstance(part, str) for part in parts):
            return content
    raise DataError(f"{place}: is not a list of replaced parts: restore the file")


def _manifest_place(hidden: Remote, output: Remote) -> Remote:
    return output / markers.manifest(hidden.name)


def _final_place(path: Remote, hidden: Remote, output: Remote) -> Remote:
    return Remote(output.url + path.url.removeprefix(hidden.url))
