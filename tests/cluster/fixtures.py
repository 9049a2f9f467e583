"""What tests ask for of the test cluster; a folder of tests has it by importing it in its conftest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.runners import java
from schemas.errors import EngineError
from tests.cluster.broker import Broker


def left_out(error: EngineError) -> None:
    """Skips the test, and says in one line why."""
    pytest.skip(f"left out: {error}")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real Kafka broker, empty at first, shared by the tests of a session: each makes topics of its own."""
    try:
        java.find_java()
        java.setup_kafka()
    except EngineError as error:
        left_out(error)
    with Broker.start(tmp_path_factory.mktemp("kafka")) as started:
        yield started
