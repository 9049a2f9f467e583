"""What tests ask for of the test cluster; a folder of tests has it by importing it in its conftest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pipelines.runners import java
from schemas.errors import EngineError
from tests.cluster.broker import Broker


def needs(*parts: Callable[[], object]) -> None:
    """Skips the test, and says in one line why, where Java or one of what it runs cannot be had."""
    try:
        for part in (java.find_java, *parts):
            part()
    except EngineError as error:
        pytest.skip(f"left out: {error}")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real Kafka broker, empty at first, shared by the tests of a session: each makes topics of its own."""
    needs(java.setup_kafka)
    with Broker.start(tmp_path_factory.mktemp("kafka")) as started:
        yield started
