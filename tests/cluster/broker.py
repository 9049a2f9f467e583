"""A real Kafka broker for tests: one node in KRaft mode on the loopback interface."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final, Self

from pipelines.runners.java import find_java, kafka_jars
from schemas.errors import EngineError
from tests.cluster.process import Server, answers, free_port

_STARTED: Final = "Kafka Server started"
_LOG_LEVEL: Final = "-Dorg.slf4j.simpleLogger.defaultLogLevel=info"
_MEMORY: Final = ("-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

_CLUSTER: Final = "c3RhdGVjYXN0LXRlc3RzMQ"  # the id of the Kafka cluster: 16 bytes in base64

_PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
num.partitions=1
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=300
group.initial.rebalance.delay.ms=0
"""


class Broker:
    """A broker with its data in a folder; it runs until it is stopped, even if its parent process ends.

    ``with Broker.start(folder) as broker:`` stops it at the end of the block.

    Args:
        folder: the folder of a broker that was started before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        properties = folder / "server.properties"
        self.port = int(_setting(properties, "advertised.listeners").rpartition(":")[2])
        self.server = Server("kafka", folder, [*_java("kafka.Kafka"), str(properties)])

    @classmethod
    def start(cls, folder: Path, port: int = 0) -> Self:
        """Start a broker in a folder; an earlier broker's topics and port in this folder are kept.

        Args:
            folder: the folder for its settings, data, log and process id.
            port: the port to listen on; 0 for any free port.

        Raises:
            EngineError: Java or the jars of Kafka are missing, or the broker does not start.
        """
        if not (folder / "server.properties").exists():
            _prepare(folder.absolute(), port or free_port())
        broker = cls(folder.absolute())
        broker.ensure_running()
        return broker

    @property
    def bootstrap(self) -> str:
        """Return the address ``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Return the process id of the broker; None while it does not run."""
        process = self.server.process
        return process.pid if process else None

    def ensure_running(self) -> None:
        """Unless the broker runs, start it with its port and its data folder, and wait until it is ready."""
        if self.pid is not None:
            return
        log = self.server.log
        began = log.stat().st_size if log.exists() else 0

        def is_ready() -> bool:
            with log.open("rb") as file:
                file.seek(began)
                return _STARTED.encode() in file.read() and answers(self.port)

        self.server.start(is_ready)

    def stop(self) -> None:
        """Stop the broker cleanly; its data folder stays."""
        self.server.stop()

    def kill(self) -> None:
        """Kill the broker with SIGKILL."""
        self.server.kill()

    def restart(self) -> None:
        """Stop the broker if it runs, and start it again."""
        self.stop()
        self.ensure_running()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _java(main: str) -> list[str]:
    return [str(find_java()), *_MEMORY, _LOG_LEVEL, "-cp", str(kafka_jars() / "*"), main]


def _prepare(folder: Path, port: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "server.properties.new"
    unfinished.write_text(_PROPERTIES.format(port=port, controller=free_port(), data=folder / "data"))
    finished = subprocess.run(
        [*_java("kafka.tools.StorageTool"), "format", "-t", _CLUSTER, "-c", str(unfinished)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if finished.returncode:
        raise EngineError(
            f"cannot make the data folder of Kafka: {(finished.stdout + finished.stderr).strip()[-300:]}"
        )
    unfinished.rename(folder / "server.properties")


def _setting(properties: Path, name: str) -> str:
    lines = (line.partition("=") for line in properties.read_text().splitlines())
    return next(value for key, _, value in lines if key == name)
