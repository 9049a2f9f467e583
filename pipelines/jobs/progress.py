"""The functions that a job calls to report its progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from forecaster.registry.run import Run
    from forecaster.training.epochs import Epoch
    from pipelines.jobs.trials import Trial


def _ignore(_: Any) -> None:
    """Do nothing; the default of each function in `Progress`."""


@dataclass(frozen=True)
class Progress:
    """The functions that a job calls to report its progress; by default they do nothing.

    Attributes:
        rows: called after each frame of rows that was read, with its number of rows.
        epoch: called after every epoch.
        windows: called with the number of windows that were replayed.
        trial: called after every trial of a sweep.
        notice: called with lines about the frequency, before the training begins.
    """

    rows: Callable[[int], None] = _ignore
    epoch: Callable[[Epoch], None] = _ignore
    windows: Callable[[int], None] = _ignore
    trial: Callable[[Trial], None] = _ignore
    notice: Callable[[str], None] = _ignore

    def log_epoch_in(self, run: Run) -> Callable[[Epoch], None]:
        """Return a function that logs an epoch in an MLflow run, and then calls `epoch`."""

        def log(epoch: Epoch) -> None:
            run.log_epoch(epoch)
            self.epoch(epoch)

        return log


SILENT: Final = Progress()
"""Reports nothing."""
