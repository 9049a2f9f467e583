"""Mark the runs of processes that died, for example by SIGKILL, as KILLED instead of running."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import mlflow

from forecaster.process_start import is_running, started_s
from schemas.errors import ModelError

PROCESS_TAG = "statecast.process"
HOST_TAG = "statecast.host"
# Outside of containers, the process namespace always has this id in Linux.
_OF_HOST = "pid:[4026531836]"
# A process tag ends with the start time of the process and then this text, the unit of the start time.
# Process tags of Statecast 0.1.0 end with the start time, without its unit.
_CLOCK = "s-after-boot"
_NOTE = "the process of this run ended without ending the run, for example by SIGKILL"


def process_tag() -> str:
    """Return a text that identifies this process among all processes of its host, also after a reboot."""
    return f"{_boot()} {_namespace()} {os.getpid()} {started_s(os.getpid())} {_CLOCK}"


def mark_killed_runs(client: mlflow.MlflowClient, experiment_id: str) -> int:
    """Mark runs as KILLED if their process ran on this host and is dead; return the number of these runs.

    The processes of another container cannot be seen from here, so their runs stay as they are.
    """
    host = socket.gethostname()
    if "'" in host:
        return 0
    found = client.search_runs(
        [experiment_id], f"attributes.status = 'RUNNING' and tags.`{HOST_TAG}` = '{host}'", max_results=1000
    )
    dead = [run.info.run_id for run in found if _is_dead(run.data.tags.get(PROCESS_TAG, ""))]
    # Read the status again: a process may have ended its run, and exited, since the search.
    killed = [run_id for run_id in dead if client.get_run(run_id).info.status == "RUNNING"]
    for run_id in killed:
        client.set_tag(run_id, "statecast.error", _NOTE)
        client.set_tag(run_id, "mlflow.note.content", _NOTE)
        client.set_terminated(run_id, "KILLED")
    return len(killed)


def check_not_running(tag: str, folder: Path) -> None:
    """Check that no other process on this host, or in this container, still writes the outbox ``folder``.

    Args:
        tag: `process_tag` of the process that began the run.
        folder: the folder, for the message.

    Raises:
        ModelError: the process still runs.
    """
    parts = tag.split()
    if len(parts) < 4 or parts[:2] != [_boot(), _namespace()] or parts[2] == str(os.getpid()):
        return
    if not _is_dead(tag):
        raise ModelError(
            f"{folder}: process {parts[2]} still writes this run: send the run when it has ended"
        )


def _is_dead(tag: str) -> bool:
    """Return True if the process of ``tag`` ran in this process namespace, and is known to have ended.

    Also return True if the tag is of this boot and namespace but its process id or start time cannot be read.
    """
    parts = tag.split()
    if len(parts) < 4 or parts[1] != _namespace():
        return False
    if parts[0] != _boot():
        # Outside containers, another boot id means a reboot, which has ended the process.
        # In a container, another boot id can also mean another host, where the process may still run.
        return parts[1] == _OF_HOST
    try:
        if parts[4:] == [_CLOCK]:
            return not is_running(int(parts[2]), float(parts[3]))
        return started_s(int(parts[2])) is None
    except ValueError:
        return True


def _boot() -> str:
    """Return the id of the current boot of this machine; "-" if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"


def _namespace() -> str:
    """Return the id of this process namespace, which differs by container; "-" if the system has none."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "-"
