"""Run a job on Flink: on a Flink inside the job server, or on a session cluster.

The state of a shard is in the memory of a Python worker, and a job resumes only from its state table, as on
every engine. So Flink stores no state and must not restart the job. When a worker, a task manager or the job
manager dies, `run_on_flink` raises `EngineLost`. Its caller then resumes a stream from the snapshots.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from pipelines.runners import flink
from pipelines.runners.base import LOCAL, PROGRESS_S, FlinkSettings, Run
from pipelines.runners.engine import log_file
from pipelines.runners.flink import JobServer, flink_options
from pipelines.runners.job_pipeline import build_pipeline
from pipelines.workers import ownership, worker
from pipelines.workers.failure import clear_worker_errors, error_to_report
from schemas.errors import EngineError, EngineLost, StatecastError

_CHECK_EVERY_S: Final = 1.0
_SILENCE_LIMIT_S: Final = 5.0  # a job manager that is silent for longer counts as lost
_RETURN_LIMIT_S: Final = 180.0  # longest wait for a task slot, as after the loss of a task manager
# Longest wait for the end of a cancelled job. This is too short for a job with a hanging task, because
# Flink ends such a task only after 180 s.
_CANCEL_LIMIT_S: Final = 30.0
_RUNNING_STATES: Final = ("INITIALIZING", "CREATED", "RUNNING", "RESTARTING", "FAILING")
# The constants below are names of Java exceptions, which show why a job failed.
# A StatusRuntimeException means that a task manager's request for a worker has failed.
_NO_SLOT: Final = "NoResourceAvailableException"
_FAILED_CALL: Final = "StatusRuntimeException"
_UNREACHABLE: Final = {"ConnectException", "UnknownHostException", "NoRouteToHostException"}


def run_on_flink(run: Run, on_progress: Callable[[], None], settings: FlinkSettings) -> None:
    """Run a job on Flink until its source ends or its stop file appears.

    Args:
        run: the run to execute.
        on_progress: called twice a second.
        settings: the addresses of Flink and its workers.

    Raises:
        EngineLost: the engine or a worker died; a stream can resume from its snapshots.
        StatecastError: the source, the output folder, a state or the engine is at fault.
    """
    output = run.settings.output
    clear_worker_errors(output)
    name = _name(run.settings.job)
    parallelism = 1 if settings.workers is None else min(_slots(settings.master), run.settings.shards)
    if run.before is not None:
        _cancel(settings.master, _name(run.before))
    with (
        JobServer(settings.master, log_file(run.logs, "flink.log")) as server,
        _cancelled_after(settings.master, name),
    ):
        options = [*flink_options(server.endpoint, settings, parallelism), f"--job_name={name}"]
        pipeline = beam.Pipeline(options=PipelineOptions([*options, *run.beam_options]))
        build_pipeline(pipeline, run, by_timer=True)
        watch = _Watch(settings.master, name, partial(ownership.has_ended, run.settings))
        try:
            result = pipeline.run()
            while not watch.sees_end():
                if PipelineState.is_terminal(state := result.state):
                    _check_ended(state, run, settings.master, name)
                    result.wait_until_finish()
                time.sleep(PROGRESS_S)
                on_progress()
            worker.end_job(run.settings.job)
            result.cancel()  # Flink keeps the ended source running, so cancel the job; see `flink_options`
        except (EngineLost, _EndedByOthers):
            raise
        except Exception as error:
            raise _error_to_raise(run, server, settings, name, error) from error
        finally:
            worker.end_job(run.settings.job, abandon=True)


def _name(job: str) -> str:
    return f"statecast-{job}"


class _EndedByOthers(EngineError):
    """Another user or program has ended the job, so the job must not be restarted."""


def _check_ended(state: str, run: Run, master: str, name: str) -> None:
    """Raise `_EndedByOthers` if Flink's job was cancelled or stopped from outside."""
    # The job server reports a cancelled job as FAILED, so ask the cluster for the state.
    if state == PipelineState.FAILED and _state_of(master, name) in ("CANCELLING", "CANCELED"):
        raise _EndedByOthers(
            "Flink's job was cancelled: run the same command again; add --resume for a stream"
        )
    if state == PipelineState.DONE and not ownership.has_ended(run.settings):
        raise _EndedByOthers(
            "Flink's job was stopped with a savepoint, which Statecast does not use: run the same command "
            "again; add --resume for a stream"
        )


def _state_of(master: str, name: str) -> str | None:
    """Return the state of the job named ``name``; None if Flink is local, is silent or lacks the job."""
    if master != LOCAL:
        with suppress(EngineError):
            return dict(flink.jobs(master).values()).get(name)
    return None


def _error_to_raise(
    run: Run, server: JobServer, settings: FlinkSettings, name: str, error: Exception
) -> StatecastError:
    """Return the error to raise after the run of the pipeline has raised ``error``.

    If `error_to_report` returns an `EngineError`, the result is an `EngineLost` with the cause instead.
    """
    reported = error_to_report(run.settings.output, error)
    if not isinstance(reported, EngineError):
        return reported
    cause = "Flink's job server has died" if server.pid is None else _cause(settings, name)
    return EngineLost(f"{cause} (log: {server.log})")


def _cause(settings: FlinkSettings, name: str) -> str:
    """Return why the cluster's job named ``name`` failed, from the exceptions that the cluster recorded."""
    master, workers = settings.master, settings.workers
    for chain in _exceptions(master, name):
        if _NO_SLOT in chain:
            return (
                f"Flink at {master} has not enough free task slots: end the job that uses them "
                f"(http://{master} lists all jobs), or use fewer with -- --parallelism=N"
            )
        if workers is not None and _FAILED_CALL in chain and not _UNREACHABLE.isdisjoint(chain):
            port = workers.rpartition(":")[2]
            return (
                f"Flink's task managers cannot reach a pool of workers at {workers}: start python -m "
                f"pipelines.runners.pool --port {port} there, or correct jobs.flink_workers"
            )
    return "a Flink worker or task has died"


def _exceptions(master: str, name: str) -> list[tuple[str, ...]]:
    """Return the exceptions of the job named ``name``, each as `flink.exceptions` returns it.

    The list is empty if Flink runs locally or the cluster does not answer.
    """
    found: list[tuple[str, ...]] = []
    if master != LOCAL:
        with suppress(EngineError):
            for job, (of, _) in flink.jobs(master).items():
                found += flink.exceptions(master, job) if of == name else []
    return found


@contextmanager
def _cancelled_after(master: str, name: str) -> Iterator[None]:
    """Cancel the cluster's job named ``name`` when the ``with`` block ends, also after an error."""
    try:
        yield
    finally:
        _cancel(master, name)


def _cancel(master: str, name: str) -> None:
    """Cancel the cluster's job named ``name`` if it is running, and wait until it has ended, at most 30 s.

    Errors of the cluster are ignored.
    """
    if master == LOCAL:
        return
    with suppress(EngineError):
        until_s = time.monotonic() + _CANCEL_LIMIT_S
        while time.monotonic() < until_s:
            found = {job: state for job, (of, state) in flink.jobs(master).items() if of == name}
            if not any(state in (*_RUNNING_STATES, "CANCELLING") for state in found.values()):
                return
            for job, state in found.items():
                if state in _RUNNING_STATES:
                    flink.cancel(master, job)
            time.sleep(0.2)


def _slots(master: str) -> int:
    """Return the number of task slots of a cluster; while there are none, wait for a task manager.

    Raises:
        EngineError: the cluster still has no task slot after 3 minutes.
    """
    until_s = time.monotonic() + _RETURN_LIMIT_S
    while True:
        with suppress(EngineError):
            if slots := int(flink.ask(master, "/overview")["slots-total"]):
                return slots
        if time.monotonic() > until_s:
            raise EngineError(
                f"Flink at {master} has offered no task slot for {_RETURN_LIMIT_S:.0f} s: "
                "check its task managers"
            )
        time.sleep(1.0)


@dataclass
class _Watch:
    """Checks whether all shards of a run have ended, and whether the cluster still has the job of the run.

    `_Watch` sends requests to the cluster itself, because the job server reports a dead job manager only
    after minutes.

    Attributes:
        master: ``[local]``, or ``host:port`` of a session cluster.
        name: name of the job in the cluster.
        has_ended: returns whether all shards have ended.
        clock: returns seconds on a monotonic clock.
    """

    master: str
    name: str
    has_ended: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    _asked_s: float = field(default=float("-inf"), init=False)
    _answered_s: float = field(default=float("inf"), init=False)
    _seen: bool = field(default=False, init=False)

    def sees_end(self) -> bool:
        """Return whether all shards have ended; return False without a check if the last check was recent.

        Raises:
            EngineLost: the job manager has stopped answering, or it has lost the job.
        """
        now_s = self.clock()
        if now_s - self._asked_s < _CHECK_EVERY_S:
            return False
        self._asked_s = now_s
        if self.has_ended():
            return True
        if self.master != LOCAL:
            self._ask(now_s)
        return False

    def _ask(self, now_s: float) -> None:
        try:
            is_known = self.name in {name for name, _ in flink.jobs(self.master).values()}
        except EngineError as error:
            if now_s - self._answered_s > _SILENCE_LIMIT_S:
                raise EngineLost(f"the job manager at {self.master} is lost") from error
            return
        self._answered_s = now_s
        if self._seen and not is_known:
            raise EngineLost(f"the job manager at {self.master} has lost the job")
        self._seen |= is_known
