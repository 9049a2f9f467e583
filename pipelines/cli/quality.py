"""Watch the quality of a stream: send alerts, and log runs named "production" in MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forecaster.registry.registry import Registry
    from pipelines.cli.console import Out
    from pipelines.jobs.job import StreamJob
    from pipelines.settings.config import JobConfig
    from pipelines.sinks.numbers import JobNumbers


def check_quality(job: JobConfig, stream: StreamJob, out: Out) -> None:
    """Check that the alert rules can be evaluated; print a line if the model has no profile to measure drift.

    Raises:
        ConfigError: a rule cannot be evaluated with this model, or its webhook is not in the environment.
    """
    from pipelines.jobs.alerts import check_alerts

    check_alerts(job.alerts, stream.forecaster.network_config.horizon)
    if not stream.forecaster.profile:
        out.say(
            f"{stream.forecaster.version} was trained by an earlier release and holds no profile of its "
            "training data: the drift of the inputs is not measured; train it anew to measure it"
        )


@contextmanager
def watch_quality(
    job: JobConfig, model: str, stream: StreamJob, out: Out, *, is_resume: bool
) -> Iterator[Callable[[JobNumbers], None]]:
    """Send alerts about a stream, and log its production runs, while the ``with`` block runs the stream.

    Production runs are logged only if the model comes from an MLflow store.

    Args:
        job: settings of the job.
        model: the model, as the user named it.
        stream: the stream.
        out: output of notices.
        is_resume: whether the stream resumes an earlier one.

    Yields:
        Function to call with the job's numbers, twice a second; it never waits.
    """
    watches: list[Callable[[JobNumbers], None]] = []
    with ExitStack() as stack:
        if job.alerts:
            from pipelines.jobs.alerts import AlertWatch

            alerts = AlertWatch(job.alerts, stream.output, stream.shards, out.notice, is_resume=is_resume)
            stack.callback(alerts.close)
            watches.append(alerts.take)
        from pipelines.cli.models import is_registered_model

        every_s = job.mlflow.production_every_s
        # If the stream follows an alias, its model is registered: do not look it up in the MLflow store,
        # because such a stream can resume while the store cannot be reached.
        if every_s and (stream.follows or is_registered_model(model, job)):
            from pipelines.jobs.production import ProductionRuns

            def open_run(run_id: str) -> Registry:
                from pipelines.jobs.registry import open_registry

                update = {"run_id": run_id} if run_id else {}
                return open_registry(job.mlflow.model_copy(update=update))

            runs = ProductionRuns(open_run, stream.output, every_s, out.notice, is_resume=is_resume)
            stack.callback(runs.close)
            watches.append(runs.take)

        def take(numbers: JobNumbers) -> None:
            for watch in watches:
                watch(numbers)

        yield take
