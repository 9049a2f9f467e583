"""A job on Flink, embedded or a session cluster.

A shard lives in the memory of a Python worker, and a job goes on from the state table alone, as on any
engine. So Flink restarts nothing itself and keeps nothing that matters: a worker, a task manager or a job
manager that dies ends this run as lost, and whoever started it goes on from the snapshots, as after a kill.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
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
from pipelines.workers.failure import clear_told, told
from schemas.errors import EngineError, EngineLost

_ASKED_EVERY_S: Final = 1.0
_SILENT_S: Final = 5.0  # how long a job manager may not answer
_COMES_BACK_S: Final = 180.0  # how long one that is lost is waited for
_CANCELLED_S: Final = 30.0  # Flink ends a task that does not end by itself after 180 s; nobody waits for that
_RUNS: Final = ("INITIALIZING", "CREATED", "RUNNING", "RESTARTING", "FAILING")
_NO_SLOTS: Final = "NoResourceAvailableException"


def run_on_flink(run: Run, on_progress: Callable[[], None], settings: FlinkSettings) -> None:
    """Runs a job to its end, or until it is asked to stop.

    Args:
        run: the job's run.
        on_progress: called twice a second.
        settings: which Flink, and where its workers are.

    Raises:
        EngineLost: the engine or a worker died: the job goes on from its snapshots when it is run again.
        StatecastError: the source, the output folder, a state or the engine is at fault.
    """
    output = run.settings.output
    clear_told(output)
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
            result.cancel()  # the job itself runs for ever, see `flink_options`
        except (EngineLost, _EndedByOthers):
            raise
        except Exception as error:
            raise _why(run, server, settings.workers, error) from error
        finally:
            worker.end_job(run.settings.job, abandon=True)


def _name(job: str) -> str:
    return f"statecast-{job}"


class _EndedByOthers(EngineError):
    """Somebody else has ended the job; to start it again at once would be against their will."""


def _check_ended(state: str, run: Run, master: str, name: str) -> None:
    # A job server takes a job that was cancelled for one that failed.
    if state == PipelineState.FAILED and _state_of(master, name) in ("CANCELLING", "CANCELED"):
        raise _EndedByOthers("Flink's job was cancelled: run the same command again, a stream with --resume")
    if state == PipelineState.DONE and not ownership.has_ended(run.settings):
        raise _EndedByOthers(
            "Flink's job was stopped, with a savepoint that nothing needs: run the same command again, a "
            "stream with --resume"
        )


def _state_of(master: str, name: str) -> str | None:
    """What a cluster says of the job of a name; None where nobody answers or knows it."""
    if master != LOCAL:
        with suppress(EngineError):
            return dict(flink.jobs(master).values()).get(name)
    return None


def _why(run: Run, server: JobServer, workers: str | None, error: Exception) -> EngineError:
    """What a worker of ours has told, or else that something died: Flink's own words are in the log."""
    line = told(run.settings.output, error)
    if not isinstance(line, EngineError):
        return line  # type: ignore[return-value]
    what = "a worker or task of Flink's has died"
    if server.pid is None:
        what = "Flink's job server has died"
    elif _NO_SLOTS in _text(server.log):
        what = (
            f"Flink at {server.master} has not enough free task slots: end the job that holds them "
            f"(http://{server.master} lists all), or take fewer with -- --parallelism=N"
        )
    elif workers is not None and _is_unreachable(workers, server.log):
        port = workers.rpartition(":")[2]
        what = (
            f"Flink's task managers reach no pool of workers at {workers}: start python -m "
            f"pipelines.runners.pool --port {port} there, or mend jobs.flink_workers"
        )
    return EngineLost(f"{what} (log: {server.log})")


def _is_unreachable(workers: str, log: Path) -> bool:
    """Whether Flink's words end with its task managers asking in vain for a worker."""
    host, _, port = workers.rpartition(":")
    in_vain = re.compile(
        rf"ConnectException: .*:{port}$|UnknownHostException: {re.escape(host)}\b", re.MULTILINE
    )
    return in_vain.search(_text(log)) is not None


def _text(log: Path) -> str:
    with suppress(OSError):
        return log.read_text(errors="replace")
    return ""


@contextmanager
def _cancelled_after(master: str, name: str) -> Iterator[None]:
    """The job of a name is not running in a cluster when the block ends, however it ends."""
    try:
        yield
    finally:
        _cancel(master, name)


def _cancel(master: str, name: str) -> None:
    """Cancels the job of a name, and waits until its slots are free; does nothing where there is none."""
    if master == LOCAL:
        return
    with suppress(EngineError):
        until_s = time.monotonic() + _CANCELLED_S
        while time.monotonic() < until_s:
            found = {job: state for job, (called, state) in flink.jobs(master).items() if called == name}
            if not any(state in (*_RUNS, "CANCELLING") for state in found.values()):
                return
            for job, state in found.items():
                if state in _RUNS:
                    flink.cancel(master, job)
            time.sleep(0.2)


def _slots(master: str) -> int:
    """The task slots of a cluster, once it has any: one that was lost may be coming back.

    Raises:
        EngineError: it has none.
    """
    until_s = time.monotonic() + _COMES_BACK_S
    while True:
        with suppress(EngineError):
            if slots := int(flink.ask(master, "/overview")["slots-total"]):
                return slots
        if time.monotonic() > until_s:
            raise EngineError(f"Flink at {master} has no task manager after {_COMES_BACK_S:.0f} s")
        time.sleep(1.0)


@dataclass
class _Watch:
    """Asks a cluster for its job, since a job server goes on asking a dead job manager for minutes."""

    master: str
    name: str
    has_ended: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    _asked_s: float = field(default=float("-inf"), init=False)
    _answered_s: float = field(default=float("inf"), init=False)
    _seen: bool = field(default=False, init=False)

    def sees_end(self) -> bool:
        """Whether all shards have ended, looked at once in a while.

        Raises:
            EngineLost: nobody answers any more, or the job is not known any more.
        """
        now_s = self.clock()
        if now_s - self._asked_s < _ASKED_EVERY_S:
            return False
        self._asked_s = now_s
        if self.has_ended():
            return True
        if self.master != LOCAL:
            self._ask(now_s)
        return False

    def _ask(self, now_s: float) -> None:
        try:
            known = self.name in {called for called, _ in flink.jobs(self.master).values()}
        except EngineError as error:
            if now_s - self._answered_s > _SILENT_S:
                raise EngineLost(f"the job manager at {self.master} is lost") from error
            return
        self._answered_s = now_s
        if self._seen and not known:
            raise EngineLost(f"the job manager at {self.master} has lost the job")
        self._seen |= known
