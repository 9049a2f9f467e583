"""A real Kafka broker to test with: KRaft, one node, on the loopback interface."""

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

_CLUSTER: Final = "c3RhdGVjYXN0LXRlc3RzMQ"  # 16 bytes in base64

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
    """A broker with its data in a folder of its own; it outlives whoever started it until it is stopped.

    ``with Broker.start(folder) as broker:`` stops it at the end of the block.

    Args:
        folder: of a broker that was started before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        properties = folder / "server.properties"
        self.port = int(_setting(properties, "advertised.listeners").rpartition(":")[2])
        self.server = Server("kafka", folder, [*_java("kafka.Kafka"), str(properties)])

    @classmethod
    def start(cls, folder: Path, port: int = 0) -> Self:
        """Starts a broker; one that was stopped there goes on with its topics, on its old port.

        Args:
            folder: of its settings, data, log and process id.
            port: to listen on; 0 for any that is free.

        Raises:
            EngineError: Java or its jars are missing, or it does not start.
        """
        if not (folder / "server.properties").exists():
            _prepare(folder.absolute(), port or free_port())
        broker = cls(folder.absolute())
        broker.go_on()
        return broker

    @property
    def bootstrap(self) -> str:
        """``host:port``, as clients want it."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        process = self.server.process
        return process.pid if process else None

    def go_on(self) -> None:
        """Starts it where it does not run, on the same port with the same data; ready when this returns."""
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
        """Ends it cleanly; its data stays."""
        self.server.stop()

    def kill(self) -> None:
        """SIGKILL."""
        self.server.kill()

    def restart(self) -> None:
        """Ends it, if it runs, and has it go on."""
        self.stop()
        self.go_on()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _java(main: str) -> list[str]:
    return [str(find_java()), *_MEMORY, _LOG_LEVEL, "-cp", str(kafka_jars() / "*"), main]


def _prepare(folder: Path, port: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    half = folder / "server.properties.new"
    half.write_text(_PROPERTIES.format(port=port, controller=free_port(), data=folder / "data"))
    told = subprocess.run(
        [*_java("kafka.tools.StorageTool"), "format", "-t", _CLUSTER, "-c", str(half)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if told.returncode:
        raise EngineError(f"Kafka's data folder cannot be made: {(told.stdout + told.stderr).strip()[-300:]}")
    half.rename(folder / "server.properties")


def _setting(properties: Path, name: str) -> str:
    lines = (line.partition("=") for line in properties.read_text().splitlines())
    return next(value for key, _, value in lines if key == name)
