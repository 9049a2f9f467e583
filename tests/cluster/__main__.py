"""Start, inspect and stop a test cluster: ``python -m tests.cluster up``, ``status`` and ``down``."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from pipelines.runners import java
from pipelines.runners.prism_binary import cache_dir
from schemas.errors import EngineError
from tests.cluster.broker import Broker
from tests.cluster.flink import FlinkCluster
from tests.cluster.process import Server


def folder() -> Path:
    """Return the folder of the cluster, which the environment variable STATECAST_CLUSTER may name."""
    return Path(os.environ.get("STATECAST_CLUSTER") or cache_dir() / "cluster")


def up() -> None:
    """Start the broker and each Flink process, unless it is running already, and print the status."""
    java.setup_kafka()
    java.setup_flink()
    java.setup_job_server()
    Broker.start(folder() / "kafka")
    FlinkCluster.start(folder() / "flink")
    status()


def down() -> None:
    """Stop the processes that `up` started, and delete the folder of the cluster."""
    for server in _servers():
        server.stop()
    shutil.rmtree(folder(), ignore_errors=True)
    print("the cluster is down")


def status() -> None:
    """Print which processes of the cluster run; the last line is one JSON object."""
    servers = _servers()
    if not servers:
        print("there is no cluster; start one with make cluster-up")
    for server in servers:
        process = server.process
        if process is None:
            print(f"{server.name:15} does not run; see {server.log}")
        else:
            print(
                f"{server.name:15} process {process.pid}, {process.memory_info().rss >> 20} MB: {server.log}"
            )
    found: dict[str, object] = {server.name: server.process is not None for server in servers}
    if (folder() / "kafka").exists():
        found["bootstrap"] = Broker(folder() / "kafka").bootstrap
    if (folder() / "flink").exists():
        flink = FlinkCluster(folder() / "flink")
        found |= {"flink_master": flink.master, "flink_workers": flink.workers, "slots": flink.slots()}
        print(f"statecast stream DATA --flink-master {flink.master} --set jobs.flink_workers={flink.workers}")
    print(json.dumps(found))


def _servers() -> list[Server]:
    servers = FlinkCluster(folder() / "flink").servers if (folder() / "flink" / "ports").exists() else []
    if (folder() / "kafka" / "server.properties").exists():
        servers.append(Broker(folder() / "kafka").server)
    return servers


def main(arguments: list[str]) -> int:
    """Run the command that the arguments name; return the exit code."""
    commands = {"up": up, "down": down, "status": status}
    if len(arguments) != 1 or arguments[0] not in commands:
        print(f"usage: python -m tests.cluster {' | '.join(commands)}", file=sys.stderr)
        return 2
    try:
        commands[arguments[0]]()
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
