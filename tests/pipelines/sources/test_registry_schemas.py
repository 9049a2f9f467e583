"""Tests that a decoder requests Avro schemas from a registry, repeats failed requests, and stores schemas."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field

import fastavro
import polars as pl
import pytest

from pipelines.schema_registry import AVRO_HEADER
from pipelines.sources.files.tables import Columns
from pipelines.sources.messages import DecoderSpec, Messages, decoded
from pipelines.sources.messages.as_avro import avro_decoder
from pipelines.sources.messages.field_names import Names
from pipelines.sources.messages.registry_schemas import RegistryAway, RegistrySchemas, SchemaUnknown
from tests.pipelines.registries import Answer, registry_of
from tests.pipelines.sources.logs import Clock

SCHEMA = {
    "type": "record",
    "name": "Row",
    "fields": [
        {"name": "series_id", "type": "string"},
        {"name": "timestamp", "type": "string"},
        {"name": "value", "type": "double"},
    ],
}
KNOWN: Answer = (200, {"schema": json.dumps(SCHEMA)})


def record(number: int) -> bytes:
    sink = io.BytesIO()
    row = {"series_id": "a", "timestamp": "2013-01-01", "value": 1.0}
    fastavro.schemaless_writer(sink, fastavro.parse_schema(SCHEMA), row)
    return AVRO_HEADER.pack(0, number) + sink.getvalue()


def messages(*numbers: int) -> Messages:
    return Messages([record(number) for number in numbers], [None] * len(numbers))


@dataclass
class SchemaTexts:
    """A store in memory that keeps the text of each schema by its id."""

    texts: dict[int, str] = field(default_factory=dict)

    def schema(self, number: int) -> str | None:
        return self.texts.get(number)

    def keep_schema(self, number: int, text: str) -> None:
        self.texts[number] = text


def counted(frames: list[pl.DataFrame]) -> tuple[int, int]:
    """Return the number of rows in decoded messages, and the number of messages that could not be decoded."""
    bad = sum(len(frame) for frame in frames if "problem" in frame.columns)
    return sum(map(len, frames)) - bad, bad


def test_known_and_unknown_schemas_are_requested_once() -> None:
    with registry_of(lambda request: KNOWN if request.endswith("/7") else (404, {})) as registry:
        decode = DecoderSpec("avro", registry=registry.url).decoder("name:secret")
        assert counted(decoded(decode, messages(*[8] * 1000))) == (0, 1000)
        assert registry.requests == ["GET /schemas/ids/8"]
        frames = decoded(decode, messages(7, 8, 7))
        assert counted(frames) == (2, 1)
        assert frames[-1].select("message", "problem", "problem_kind").rows() == [
            (1, "the registry has no schema with id 8", "schema is unknown")
        ]
        assert registry.requests == ["GET /schemas/ids/8", "GET /schemas/ids/7"]
        assert set(registry.users) == {"Basic bmFtZTpzZWNyZXQ="}


def test_an_unknown_schema_is_requested_again_after_growing_waits() -> None:
    clock = Clock(0.0)
    answers: dict[str, tuple[int, dict[str, str]]] = {"GET /schemas/ids/8": (404, {})}
    with registry_of(lambda request: answers[request]) as registry:
        schemas = RegistrySchemas(registry.url, clock=clock)
        for clock.now_s in range(200):
            with pytest.raises(SchemaUnknown):
                schemas(8)
        assert len(registry.requests) == 6  # requests at 0, 10, 30, 70, 130 and 190 s: the waits grow to 60 s
        answers["GET /schemas/ids/8"] = KNOWN
        clock.now_s = 300.0
        assert schemas(8)["name"] == "Row"


def test_a_temporary_schema_registry_failure_loses_no_message() -> None:
    clock, answers = Clock(0.0), [(503, {}), (500, {}), KNOWN]
    with registry_of(lambda request: answers.pop(0)) as registry:
        decode = avro_decoder(Names.of(Columns(), False), RegistrySchemas(registry.url, clock=clock))
        # The decoder requests the schema at 0.0 s and again at 0.2 s. After this second failure it waits
        # 0.4 s, so the calls at 0.3 s to 0.5 s send no request.
        for clock.now_s in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
            with pytest.raises(RegistryAway, match="answers 50"):
                decoded(decode, messages(7, 7))
        assert len(registry.requests) == 2
        clock.now_s = 0.7
        assert counted(decoded(decode, messages(7, 7))) == (2, 0)
        assert len(registry.requests) == 3


def test_registry_failures_raise_schema_unknown_after_patience_s() -> None:
    clock = Clock(0.0)
    with registry_of(lambda request: (503, {})) as registry:
        schemas = RegistrySchemas(registry.url, patience_s=60, clock=clock)
        for clock.now_s in range(60):
            with pytest.raises(RegistryAway):
                schemas(7)
        for clock.now_s in range(60, 1000):
            with pytest.raises(SchemaUnknown, match="answers 503"):
                schemas(7)
        assert len(registry.requests) < 30
    with pytest.raises(SchemaUnknown, match="cannot be reached"):
        RegistrySchemas("http://127.0.0.1:9", patience_s=0, clock=clock)(7)


def test_an_answer_without_json_is_reported_as_such() -> None:
    wrong = "the answer of the schema registry is not JSON"
    with registry_of(lambda request: KNOWN, b"<html>") as registry, pytest.raises(SchemaUnknown, match=wrong):
        RegistrySchemas(registry.url, patience_s=0)(7)


@pytest.mark.parametrize(
    "answer",
    [(200, {"schema": '{"type": "nonsense"}'}), (200, {"schema": 5}), (200, []), (200, {})],
    ids=repr,
)
def test_a_schema_id_is_requested_once_if_the_answer_has_no_valid_schema(answer: Answer) -> None:
    with registry_of(lambda request: answer) as registry:
        decode = DecoderSpec("avro", registry=registry.url).decoder()
        assert counted(decoded(decode, messages(7, 7, 7))) == (0, 3)
        assert len(registry.requests) == 1


def test_a_stored_schema_is_not_requested_again() -> None:
    stored_texts = SchemaTexts()
    with registry_of(lambda request: KNOWN) as registry:
        RegistrySchemas(registry.url, kept=stored_texts)(7)
    assert json.loads(stored_texts.texts[7]) == SCHEMA
    assert RegistrySchemas("http://127.0.0.1:9", kept=stored_texts)(7)["name"] == "Row"
