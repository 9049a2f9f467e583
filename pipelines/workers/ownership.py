"""Record which run owns an output folder, and which of its shards have ended.

An engine may lose contact with workers that go on running on another machine. When the next run takes the
folder over, these workers find its id in the owner file, and stop writing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from pipelines.storage import Location, OwnedFile, markers, store_of, write_text, write_to
from pipelines.workers.step_settings import StepSettings


def take_ownership(settings: StepSettings, confirm: Callable[[], None] = lambda: None) -> None:
    """Make this run the owner of its output folder; workers of earlier runs then stop writing.

    Args:
        settings: settings of the run.
        confirm: raises `OutputError` if another job holds the lock of the folder; see `Held`.

    Raises:
        OutputError: another job has taken the folder over; the owner file is unchanged.
        OSError: the owner file cannot be written.
    """

    def is_ours() -> bool:
        confirm()
        return True

    OwnedFile(settings.output / markers.OWNER).write(partial(write_to, data=settings.job.encode()), is_ours)
    for path in settings.output.glob(markers.ENDED_SHARDS):
        path.unlink(missing_ok=True)


def read_owner(output: Location) -> str | None:
    """Return the id of the run that owns an output folder; None if its owner file cannot be read."""
    try:
        return (output / markers.OWNER).read_bytes().decode("ascii")
    except (OSError, UnicodeDecodeError):
        return None


def has_ended(settings: StepSettings) -> bool:
    """Return whether every shard has written its last snapshot of the run.

    The runner calls this function repeatedly, because an engine may report success before the last snapshots
    are written. In an object store, listing the folder costs twelve times as much as reading a file. So the
    folder is listed only after shard 0 has ended.
    """
    if not (settings.output / markers.ended_shard(0)).exists():
        return False
    return len(list(settings.output.glob(markers.ENDED_SHARDS))) == settings.shards


def is_owned_by_another_run(settings: StepSettings) -> bool:
    """Return whether another run owns the output folder; a worker must check this before it writes."""
    try:
        return (settings.output / markers.OWNER).read_bytes() != settings.job.encode()
    except FileNotFoundError:
        # The owner file of a backfill is in its hidden folder, and no owner file means that this folder was
        # removed: the backfill has ended, or starts again. On a disk, a later write into the removed folder
        # fails. In an object store, the write would succeed, so return True there to prevent it.
        return store_of(settings.output).on_disk is None
    except OSError:
        return False


def mark_shard_ended(settings: StepSettings, shard: int) -> None:
    """Record in a file that a shard has written its last snapshot of the run."""
    write_text(settings.output / markers.ended_shard(shard), "")


class WriteGuard:
    """Decides for all threads of a worker process whether the run may still write.

    A run stops writing for good when it is abandoned, or when another run owns its output folder.

    Args:
        settings: settings of the run.
    """

    def __init__(self, settings: StepSettings) -> None:
        self._settings = settings
        self._abandoned = threading.Event()

    def abandon(self) -> None:
        """Prevent the run from writing anything from now on."""
        self._abandoned.set()

    @property
    def is_abandoned(self) -> bool:
        """Whether `abandon` was called, or `may_write` has returned False; this property reads no file."""
        return self._abandoned.is_set()

    def may_write(self) -> bool:
        """Read who owns the output folder, and return whether this run may still write."""
        if not self._abandoned.is_set() and is_owned_by_another_run(self._settings):
            self._abandoned.set()
        return not self._abandoned.is_set()
