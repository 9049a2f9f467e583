"""Cause faults of a cluster while a stream runs on it, and compare the stream's outputs with a backfill.

One stream goes through all faults, one after the other. It must recover from each fault without help. After
each fault, it must have lost and repeated no forecast. At the end, its forecasts must equal the forecasts of
a backfill of the same rows.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

import psutil

from pipelines.runners import flink
from pipelines.sinks.files import read_forecasts
from schemas.errors import EngineError
from schemas.forecasts import IDENTITY
from tests.cluster.broker import Broker
from tests.cluster.faulted import Stream, Verdict
from tests.cluster.flink import FlinkCluster
from tests.comparisons import assert_same_frames
from tests.fleets import scales

_AWAY_S: Final = 10.0
_SAVEPOINT_S: Final = 60.0


def kill_worker(stream: Stream) -> None:
    """Kill one worker process of the pool of Python workers."""
    assert stream.cluster.pool.process is not None
    workers = stream.cluster.pool.process.children()
    assert workers, "no worker runs"
    workers[0].kill()


def kill_task_manager(stream: Stream) -> None:
    """Kill one task manager and start a new task manager."""
    stream.cluster.task_managers[0].kill()
    stream.cluster.ensure_running()


def kill_job_manager(stream: Stream) -> None:
    """Kill the job manager and start a new job manager, which does not have the job."""
    stream.cluster.job_manager.kill()
    stream.cluster.ensure_running()


def kill_broker(stream: Stream) -> None:
    """Kill the broker and start it again after ten seconds."""
    stream.broker.kill()
    time.sleep(_AWAY_S)
    stream.broker.restart()


def kill_everything(stream: Stream) -> None:
    """Kill the broker and all servers of the cluster with their child processes, then start them again."""
    stream.broker.kill()
    for server in stream.cluster.servers:
        server.kill()
    stream.broker.restart()
    stream.cluster.ensure_running()


def cancel(stream: Stream) -> None:
    """Cancel the Flink job, which ends the stream with an error; `Stream` then resumes the stream."""
    for job in running(stream.cluster):
        flink.cancel(stream.cluster.master, job)


def stop_with_savepoint(stream: Stream) -> None:
    """Stop the Flink job with a savepoint; the stream must then start a new job from its state table."""
    master = stream.cluster.master
    for job in running(stream.cluster):
        asked = flink.ask(master, f"/jobs/{job}/stop", "POST", {"drain": False})["request-id"]
        until_s = time.monotonic() + _SAVEPOINT_S
        while (done := flink.ask(master, f"/jobs/{job}/savepoints/{asked}"))["status"]["id"] != "COMPLETED":
            assert time.monotonic() < until_s, f"no savepoint in {_SAVEPOINT_S:.0f} s"
            time.sleep(0.2)
        assert Path(done["operation"]["location"].removeprefix("file:")).is_dir(), done


def running(cluster: FlinkCluster) -> list[str]:
    """Return the ids of the running jobs."""
    return [job for job, (_, state) in flink.jobs(cluster.master).items() if state == "RUNNING"]


def await_checkpoint(cluster: FlinkCluster) -> str:
    """Wait until the running job has a complete checkpoint; return the size and duration of the
    newest one as text."""
    until_s = time.monotonic() + _SAVEPOINT_S
    while time.monotonic() < until_s:
        for job in running(cluster):
            if done := flink.ask(cluster.master, f"/jobs/{job}/checkpoints")["latest"]["completed"]:
                return f"{done['state_size']} bytes in {done['end_to_end_duration']} ms"
        time.sleep(0.5)
    raise AssertionError(f"Flink completed no checkpoint in {_SAVEPOINT_S:.0f} s")


FAULTS: Final[Mapping[str, Callable[[Stream], None]]] = {
    "worker": kill_worker,
    "task_manager": kill_task_manager,
    "job_manager": kill_job_manager,
    "broker": kill_broker,
    "everything": kill_everything,
    "savepoint": stop_with_savepoint,
    "cancelled": cancel,
}


def run_faults(
    folder: Path, names: tuple[str, ...] = tuple(FAULTS), task_managers: int = 2
) -> dict[str, Verdict]:
    """Start a cluster and a stream, and cause the faults ``names``.

    Return a verdict on the outputs after each fault, and one after the end of the stream.
    """
    with (
        Broker.start(folder / "kafka") as broker,
        FlinkCluster.start(folder / "cluster", task_managers) as cluster,
    ):
        stream = Stream(cluster, broker, folder)
        verdicts = {}
        for name in names:
            print(f"{name} …", file=sys.stderr, flush=True)
            verdicts[name] = stream.apply_fault(FAULTS[name], is_waited_out=name == "broker")
            print(f"  {verdicts[name]}", file=sys.stderr, flush=True)
        print(f"the last checkpoint: {await_checkpoint(cluster)}", file=sys.stderr, flush=True)
        stream.end()
        verdicts["stopped"] = stream.compare(stream.through_us())
        left = read_forecasts(stream.job.output)
        quiet = read_forecasts(folder / "quiet").join(left, on=IDENTITY, how="semi")
        assert_same_frames(quiet, left, scales(stream.fleet))
    return verdicts


def main(names: list[str]) -> int:
    """Cause the faults in ``names``, all faults if it is empty; print their verdicts as one JSON object.

    If a server of the cluster or the broker does not start, print an error instead. Return the exit code.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="statecast-faults-") as folder:
            verdicts = run_faults(Path(folder), tuple(names) or tuple(FAULTS))
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps({name: asdict(verdict) for name, verdict in verdicts.items()}))
    return int(any(verdict.lost or verdict.doubled for verdict in verdicts.values()))


if __name__ == "__main__":
    psutil.Process().nice(5)
    sys.exit(main(sys.argv[1:]))
