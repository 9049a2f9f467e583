"""What a source of rows is: a partition of a log that is read in steps, without Beam."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from forecaster.shard import Batch


class Step(NamedTuple):
    """What a source has next.

    Attributes:
        batches: in the order of their offsets; none while there is nothing to read.
        offset: where to go on from.
        wait_s: seconds until it is worth asking again.
    """

    batches: tuple[Batch, ...]
    offset: int
    wait_s: float = 0.0


class Source(Protocol):
    """One partition of a log; picklable, since it travels to the worker that reads.

    What it has read it can read again: the same offset is the same row, with the same watermark before it.
    """

    @property
    def partition(self) -> str:
        """Name of the partition."""

    @property
    def is_paced(self) -> bool:
        """Whether rows come in a time of their own; else a job's latency is the backlog that it works off."""

    def step(self, offset: int) -> Step | None:
        """The next step from ``offset`` on, or None at the end for good.

        Raises:
            DataError: the source is at fault; one line with the fix.
        """
