"""Whose an output folder is: which run writes into it, and which of its shards have ended.

An engine may lose a run whose workers live on, on another machine; whoever goes on must not have them write
between.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pipelines.storage import Location, OwnedFile, Remote, write_text, write_to
from pipelines.workers.step_settings import StepSettings

_ENDED = ".ended-"  # and a shard's number
_RUN = ".run"  # says which run writes into the folder


def take_ownership(settings: StepSettings, confirm: Callable[[], None] = lambda: None) -> None:
    """Make this run the owner of its output folder; a worker of an earlier run writes no more then.

    Args:
        settings: of the run.
        confirm: raises `OutputError` where another job has the lock of the folder; see `Held`.

    Raises:
        OutputError: another job has taken over; the owner is as it was.
        OSError: the mark cannot be written.
    """

    def is_ours() -> bool:
        confirm()
        return True

    OwnedFile(settings.output / _RUN).write(partial(write_to, data=settings.job.encode()), is_ours)
    for path in settings.output.glob(f"{_ENDED}*"):
        path.unlink(missing_ok=True)


def read_owner(output: Location) -> str | None:
    """The run that an output folder belongs to; None where it is nobody's yet."""
    try:
        return (output / _RUN).read_bytes().decode("ascii")
    except (OSError, UnicodeDecodeError):
        return None


def has_ended(settings: StepSettings) -> bool:
    """Whether every shard has its last snapshot of a run; an engine may say that it is done without.

    It is asked for as long as the run lasts. A store is paid for each request, twelve times as much for a
    list as for an object; so it lists only once the first shard has ended.
    """
    if not (settings.output / f"{_ENDED}{0:04d}").exists():
        return False
    return len(list(settings.output.glob(f"{_ENDED}*"))) == settings.shards


def is_owned_by_another_run(settings: StepSettings) -> bool:
    """Whether the output folder belongs to another run by now: on a cluster workers may outlive their own."""
    try:
        return (settings.output / _RUN).read_bytes() != settings.job.encode()
    except FileNotFoundError:
        # A backfill has ended, or begins again. A disk has no folder to write into then; a store takes all.
        return isinstance(settings.output, Remote)
    except OSError:
        return False


def mark_shard_ended(settings: StepSettings, shard: int) -> None:
    """Says that a shard has its last snapshot of the run."""
    write_text(settings.output / f"{_ENDED}{shard:04d}", "")
