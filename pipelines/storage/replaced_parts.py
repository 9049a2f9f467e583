"""Parts of an output that are replaced together in an object store, where nothing can be renamed.

The new parts lie whole under a hidden prefix when a manifest is put that says so. With this PUT the output
is the new one: `read_consistently` reads the parts from there. Copying them to their final keys follows, and
whoever dies in it leaves it to the next job. Then the manifest says that it is done. Other readers than ours
see old and new parts side by side while the store copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar
from uuid import uuid4

from pipelines.storage.remote import Location, Remote
from pipelines.storage.write_whole import remove_tree, write_text
from schemas.errors import DataError, StatecastError
from schemas.sealed import seal, unseal

BACKFILL: Final = ".backfill"
"""Where a backfill works in its output folder, until it is done."""

_TRIES = 5
_AT_ONCE = 16  # copies, each of which is a request that waits for its answer

T = TypeVar("T")


def replace_in_store(hidden: Remote, output: Remote, parts: Sequence[str]) -> None:
    """Replaces ``parts`` of ``output`` by those under ``hidden``, which is removed.

    Raises:
        OSError: the store cannot be reached. Either nothing has changed, or the parts are the new ones, and
            `complete_replacement_in_store` will do the rest.
    """
    _say(hidden, output, parts)
    complete_replacement_in_store(hidden, output)


def complete_replacement_in_store(hidden: Remote, output: Remote) -> None:
    """Ends what a `replace_in_store` that died had begun; what was not complete is removed.

    Raises:
        OSError: the store cannot be reached.
    """
    # With nothing there, as where somebody put back an old manifest, the parts are the new ones by now.
    for part in _told(hidden, output).get("parts", ()) if hidden.below() else ():
        new = [(path, _moved(path, hidden, output)) for path in (hidden / part).below()]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for done in [pool.submit(path.copy, target) for path, target in new]:
                done.result()
        (output / part).remove_below(*(target for _, target in new))
    if _told(hidden, output):
        _say(hidden, output, ())
    remove_tree(hidden)


def read_consistently(folder: Location, read: Callable[[Location], T]) -> T:
    """What ``read`` makes of a folder that a job may just be replacing: the old one, or the new one.

    Args:
        folder: a part of an output.
        read: reads it, from where it is told.

    Raises:
        StatecastError: what ``read`` raises.
    """
    if not isinstance(folder, Remote):
        return read(folder)
    for _ in range(_TRIES):
        there, told = _now(folder)
        try:
            made = read(there)
        except (OSError, StatecastError):
            if told == _now(folder)[1]:
                raise
        else:
            if told == _now(folder)[1]:
                return made
    raise DataError(f"{folder}: is replaced again and again: read it when its job has ended")


def _now(folder: Remote) -> tuple[Remote, list[dict[str, Any]]]:
    """Where a part is to be read, and what the manifests say that it may be replaced by."""
    output = folder.parent
    hidden = [output / BACKFILL, output / f".{folder.name}.new"]
    told = [_told(one, output) for one in hidden]
    there = [
        one / folder.name
        for one, said in zip(hidden, told, strict=True)
        if folder.name in said.get("parts", ())
    ]
    return (there or [folder])[0], told


def _say(hidden: Remote, output: Remote, parts: Sequence[str]) -> None:
    # Each has a name of its own: a reader tells by it that parts were replaced meanwhile.
    write_text(_manifest(hidden, output), seal({"id": uuid4().hex, "parts": [*parts]}))


def _told(hidden: Remote, output: Remote) -> dict[str, Any]:
    manifest = _manifest(hidden, output)
    try:
        told = unseal(manifest.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{manifest}: {error}: put it back as it was") from None
    match told:
        case {"id": str(), "parts": [*parts]} if all(isinstance(part, str) for part in parts):
            return told
    raise DataError(f"{manifest}: says of no parts that they are replaced: put it back as it was")


def _manifest(hidden: Remote, output: Remote) -> Remote:
    return output / f"{hidden.name}.json"


def _moved(path: Remote, hidden: Remote, output: Remote) -> Remote:
    return Remote(output.url + path.url.removeprefix(hidden.url))
