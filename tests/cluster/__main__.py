"""The cluster to test with, by hand: ``python -m tests.cluster up``, ``status`` and ``down``."""

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
    """Where the cluster lives; STATECAST_CLUSTER names another place, and so another cluster."""
    return Path(os.environ.get("STATECAST_CLUSTER") or cache_dir() / "cluster")


def up() -> None:
    """Starts what does not run."""
    java.setup_kafka()
    java.setup_flink()
    java.setup_job_server()
    Broker.start(folder() / "kafka")
    FlinkCluster.start(folder() / "flink")
    status()


def down() -> None:
    """Ends what `up` started, and nothing else; its data go, too."""
    for server in _servers():
        server.stop()
    shutil.rmtree(folder(), ignore_errors=True)
    print("the cluster is down")


def status() -> None:
    """Says what runs; the last line is one JSON object."""
    servers = _servers()
    if not servers:
        print("no cluster: make cluster-up")
    for server in servers:
        process = server.process
        if process is None:
            print(f"{server.name:15} does not run: {server.log}")
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
    """One of the three."""
    doing = {"up": up, "down": down, "status": status}
    if len(arguments) != 1 or arguments[0] not in doing:
        print(f"usage: python -m tests.cluster {' | '.join(doing)}", file=sys.stderr)
        return 2
    try:
        doing[arguments[0]]()
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
