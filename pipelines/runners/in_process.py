"""Run a job in process: threads of this process apply the batches of a source to the shards.

This runner needs no engine. Backfills use it by default. Streams use it if Prism is not installed, or if the
settings choose it. As on engines, a stream resumes from its snapshots.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from forecaster.shards.sharding import Splitter
from pipelines.runners.base import PROGRESS_S, Run
from pipelines.sources.reader import Reader
from pipelines.workers.worker import Workers

_END_LIMIT_S = 30.0


def run_in_process(run: Run, on_progress: Callable[[], None]) -> None:
    """Run a job in threads of this process until its source ends or its stop file appears.

    A separate thread reads the batches, because Ctrl-C in the main thread would interrupt Polars.

    Args:
        run: the run to execute.
        on_progress: called twice a second.

    Raises:
        StatecastError: the source, the output folder or a state is at fault.
    """
    failed: list[BaseException] = []
    abandoned = threading.Event()

    def fold() -> None:
        try:
            _fold(run, abandoned)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=fold, name="fold", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(PROGRESS_S)
            on_progress()
    except BaseException:
        abandoned.set()
        thread.join(_END_LIMIT_S)
        raise
    if failed:
        raise failed[0]


def _fold(run: Run, abandoned: threading.Event) -> None:
    workers = Workers(run.settings)
    try:
        _read(run, workers, abandoned)
    except BaseException:
        abandoned.set()
        with suppress(Exception):
            _end(workers, abandoned)
        raise
    _end(workers, abandoned)


def _end(workers: Workers, abandoned: threading.Event) -> None:
    """End the worker threads and wait for them, so that no thread writes after the job has ended.

    If ``abandoned`` is set, the threads skip the work that they have not begun.
    """
    if abandoned.is_set():
        workers.abandon()
    workers.close()


def _read(run: Run, workers: Workers, abandoned: threading.Event) -> None:
    splitter = Splitter(run.settings.shards)
    reader, places = Reader(run.log, run.stop_file, run.snapshot_every_s), run.places
    while not abandoned.is_set():
        read = reader.next(places)
        for batch in read.batches:
            for number, part in splitter.split(batch).items():
                workers.put(number, part)
        places = read.places
        if read.ended:
            break
        if read.wait_s:
            abandoned.wait(read.wait_s)
