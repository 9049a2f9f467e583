"""Program that makes several MLflow stores by starting their first runs, each run in a new process.

It kills some of the processes at chosen moments.

It is a program and not a test: it imports MLflow once, and each process is a fork of it. It
prints a JSON object with the results.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import forecaster.registry.registry  # noqa: F401


def first_run(folder: Path) -> None:
    """Start and end a run in the MLflow store of a folder; the first run makes the store."""
    from forecaster.registry.registry import Registry

    with Registry(f"sqlite:///{folder}/runs.db").start_run("first", {"a": 1}):
        pass


def start_process(work: Callable[[Path], None], folder: Path) -> int:
    """Call ``work`` in a new process; return the id of the process."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work(folder)
        code = 0
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        print(f"{type(error).__name__}: {error}".splitlines()[0], file=sys.stderr, flush=True)
    os._exit(code)


def exit_code_of(pid: int) -> int:
    """Wait for a process; return its exit code, or the negative number of its signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_and_rerun(folder: Path, name: str, delay_s: float) -> dict[str, object]:
    """Send the signal ``name`` to a process that runs `first_run`; then run `first_run` again.

    The signal is sent ``delay_s`` seconds after the first file of the process appears.

    Returns:
        The exit codes of both runs, and the files in the folder after each.
    """
    folder.mkdir()
    pid = start_process(first_run, folder)
    while not any(folder.iterdir()):
        time.sleep(0.002)
    time.sleep(delay_s)
    os.kill(pid, signal.Signals[name])
    first = exit_code_of(pid)
    left = sorted(path.name for path in folder.iterdir())
    again = exit_code_of(start_process(first_run, folder))
    return {
        "signal": name, "after_s": delay_s, "first": first, "left": left, "again": again,
        "files": sorted(path.name for path in folder.iterdir()),
    }  # fmt: skip


def run_at_once(folder: Path, processes: int) -> list[int]:
    """Run `first_run` in several processes at once, all in one new store; return their exit codes."""
    folder.mkdir()
    return [exit_code_of(pid) for pid in [start_process(first_run, folder) for _ in range(processes)]]


if __name__ == "__main__":
    where = Path(sys.argv[1])
    moments = [(name, float(delay)) for name, delay in (word.split(":") for word in sys.argv[2:])]
    found = [kill_and_rerun(where / str(number), *moment) for number, moment in enumerate(moments)]
    print(json.dumps({"killed": found, "at_once": run_at_once(where / "at-once", 3)}))
