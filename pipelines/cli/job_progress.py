"""Show the progress of a job that reads rows, trains and replays windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pipelines.cli.console import Out

if TYPE_CHECKING:
    from pipelines.jobs.progress import Progress
    from pipelines.settings.config import JobConfig


def max_epochs(job: JobConfig) -> int:
    """Return the largest possible number of epochs of a training, including its refit over all windows."""
    return job.training.epochs * (2 if job.training.refit else 1)


@contextmanager
def job_progress(
    out: Out, training: str = "", epochs: int | None = None, *, replays: bool = False
) -> Iterator[Progress]:
    """Show progress bars for the parts of a job while the ``with`` block runs, if stderr is a terminal.

    Args:
        out: output of the command.
        training: description of the training, which counts epochs; empty if the job does not train.
        epochs: largest possible number of epochs; None if it is unknown.
        replays: whether the job replays windows.

    Yields:
        The functions that advance the bars, and print notices.
    """
    from pipelines.jobs.progress import Progress

    with ExitStack() as bars:
        rows = bars.enter_context(out.progress("reading", "rows"))
        advance: dict[str, Callable[..., None]] = {"rows": rows.add}
        if training:
            from forecaster.training.train import loss_of

            epochs_done = bars.enter_context(out.progress(training, "epochs", epochs))
            advance["epoch"] = lambda epoch: epochs_done.add(1, f"loss {loss_of(epoch):.4f}")
        if replays:
            advance["windows"] = bars.enter_context(out.progress("replaying", "windows")).add
        yield Progress(**advance, notice=out.notice)
