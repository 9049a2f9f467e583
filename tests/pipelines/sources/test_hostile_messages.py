"""Tests of messages with unusual or invalid content: each row is accepted or quarantined, exactly once.

The result does not depend on the other messages that are decoded at the same time.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.schema_registry import AVRO_HEADER
from pipelines.settings.data_config import Columns
from pipelines.settings.kafka import Broker
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.kafka import KafkaSource
from pipelines.sources.kafka.reading import Reading
from pipelines.sources.messages import DecoderSpec, Messages, decoded
from pipelines.sources.messages.base import Decoder
from schemas import observations
from tests.arrow_types import CELLS, arrow_types, table_of
from tests.fleets import HOUR
from tests.topics import Topic

TYPES = arrow_types()
COLUMNS = Columns(event_id="event", observed=("heat",))
PLACES = ("series_id", "timestamp", "value", "event", "heat", "more")
OTHERS = {"event": pa.array(["x", "y", "z"]), "heat": pa.array([1.0, 2.0, 3.0])}

Rows = list[tuple[Any, ...]]


def ipc(table: pa.Table, *, as_file: bool = False) -> bytes:
    sink = io.BytesIO()
    made = pa.ipc.new_file(sink, table.schema) if as_file else pa.ipc.new_stream(sink, table.schema)
    with made as writer:
        writer.write_table(table)
    return sink.getvalue()


def arrow_message(place: str, column: pa.Array) -> bytes:
    return ipc(table_of(CELLS, {**OTHERS, place: column}))


def read(decode: Decoder, *values: bytes | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    frames = decoded(decode, Messages(values, [None] * len(values)))
    parts = [observations.validate(frame.rename({"message": "offset"})) for frame in frames]
    good, bad = ([part[n] for part in parts if len(part[n])] or [parts[0][n]] for n in (0, 1))
    return pl.concat(good).sort("offset"), pl.concat(bad).sort("offset")


def rows_of(found: tuple[pl.DataFrame, pl.DataFrame], at: int) -> tuple[Rows, int]:
    """Return the valid rows of the message at offset ``at``, and how many of its rows were rejected.

    ``found`` are the frames that `read` returned.
    """
    good, bad = (frame.filter(pl.col("offset") == at) for frame in found)
    return good.drop("offset").rows(), len(bad)


@pytest.mark.parametrize("place", PLACES)
def test_rows_of_every_arrow_type_are_valid_or_quarantined(place: str) -> None:
    decode = DecoderSpec("arrow", COLUMNS).decoder()
    plain = ipc(table_of(CELLS, OTHERS), as_file=True)
    sent = [plain, b"nope", None, *(arrow_message(place, column) for column in TYPES.values())]
    good, bad = read(decode, *sent)
    assert len(good) + len(bad) == CELLS * (len(sent) - 2) + 2
    assert bad["offset"].is_between(1, 2).sum() == 2
    assert (bad["offset"] > 0).all()
    bad = bad.filter(pl.col("offset") > 2)
    assert (bad["column"] == place.replace("event", "event_id")).all()
    assert place != "more" or not len(bad)
    # Decode each message from offset 3 on alone. Its rows must equal its rows in the joint decoding above.
    for at, kind in enumerate(TYPES, 3):
        alone = read(decode, sent[at])
        for all_rows, mine in zip((good, bad), alone, strict=True):
            found = all_rows.filter(pl.col("offset") == at)
            assert found.drop("offset", "row", strict=False).equals(
                mine.drop("offset", "row", strict=False)
            ), kind


def test_arrow_rows_without_the_required_columns_are_rejected() -> None:
    for table in (pa.table({"a": [1, 2, 3]}), pa.table({"value": pa.array([1.0, 2.0, 3.0])})):
        good, bad = read(DecoderSpec("arrow").decoder(), ipc(table))
        assert (len(good), len(bad)) == (0, 3)


def test_the_first_of_two_columns_called_value_is_used() -> None:
    table = table_of(1, {})
    twice = pa.Table.from_arrays([*table.columns, pa.array([99.0])], names=[*table.schema.names, "value"])
    good, bad = read(DecoderSpec("arrow").decoder(), ipc(twice))
    assert (good["value"].to_list(), len(bad)) == ([0.0], 0)


def test_the_value_column_is_chosen_among_columns_with_values() -> None:
    table = table_of(2, {"value": pa.nulls(2), "y": pa.array([5.0, 6.0])})
    good, bad = read(DecoderSpec("arrow").decoder(), ipc(table))
    assert (good["value"].to_list(), len(bad)) == ([5.0, 6.0], 0)


@settings(max_examples=150)
@given(place=st.sampled_from(PLACES), kind=st.sampled_from(sorted(TYPES)), data=st.data())
def test_damage_to_an_arrow_message_affects_no_other_message(
    place: str, kind: str, data: st.DataObject
) -> None:
    decode = DecoderSpec("arrow", COLUMNS).decoder()
    plain, hurt = ipc(table_of(CELLS, OTHERS)), bytearray(arrow_message(place, TYPES[kind]))
    for _ in range(data.draw(st.integers(1, 4))):
        hurt[data.draw(st.integers(0, len(hurt) - 1))] = data.draw(st.integers(0, 255))
    hurt = hurt[: data.draw(st.integers(len(hurt) // 2, len(hurt)))]
    good, bad = read(decode, plain, bytes(hurt), plain)
    assert (good["offset"] != 1).sum() == 2 * CELLS
    assert (bad["offset"] == 1).all()


AVRO_TYPES: dict[str, tuple[Any, list[Any]]] = {
    "bytes": ("bytes", [b"1", b"\xff"]),
    "fixed": ({"type": "fixed", "name": "Two", "size": 2}, [b"ab", b"\xff\xff"]),
    "boolean": ("boolean", [True, False]),
    "long": ("long", [2**63 - 1, -(2**63)]),
    "float": ("float", [0.1, float("nan")]),
    "double": ("double", [float("inf"), 1e300]),
    "string": ("string", ["1", "\0"]),
    "enum": ({"type": "enum", "name": "Letter", "symbols": ["A", "B"]}, ["A", "B"]),
    "array": ({"type": "array", "items": ["int", "string", "bytes"]}, [[1, "a"], [b"\xff"]]),
    "map": ({"type": "map", "values": ["double", "bytes"]}, [{"a": 1.0}, {"b": b"\xff"}]),
    "record": (
        {"type": "record", "name": "Inner", "fields": [{"name": "a", "type": ["null", "bytes"]}]},
        [{"a": None}, {"a": b"\xff"}],
    ),
    "decimal": (
        {"type": "bytes", "logicalType": "decimal", "precision": 60, "scale": 3},
        [Decimal("1.5"), Decimal("9" * 50)],
    ),
    "uuid": ({"type": "string", "logicalType": "uuid"}, [UUID(int=1), UUID(int=2)]),
    "date": ({"type": "int", "logicalType": "date"}, [date(2013, 1, 1), date(9999, 1, 1)]),
    "time": ({"type": "long", "logicalType": "time-micros"}, [time(1, 2), time(0)]),
    "timestamp": (
        {"type": "long", "logicalType": "timestamp-millis"},
        [datetime(2013, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)],
    ),
    "local": (
        {"type": "long", "logicalType": "local-timestamp-micros"},
        [datetime(2013, 1, 1), datetime(1, 1, 1)],
    ),
    "union": (["int", "double", "string", "bytes", "boolean"], [1, 1.0, "1", b"1", True, b"\xff"]),
}


def avro_decoder_of(folder: Path, place: str, kind: Any) -> tuple[Decoder, Any]:
    """Return a decoder and a schema of Avro records in which the field ``place`` has the type ``kind``."""
    usual = {
        "series_id": "string",
        "timestamp": "string",
        "value": "double",
        "event": "string",
        "heat": "double",
    }
    types = usual | {place: kind}
    fields = [{"name": name, "type": one} for name, one in types.items()]
    schema = {"type": "record", "name": "Row", "fields": fields}
    (folder / "row.avsc").write_text(json.dumps(schema))
    spec = DecoderSpec("avro", COLUMNS, schema=str(folder / "row.avsc"))
    return spec.decoder(), fastavro.parse_schema(schema)


def avro_messages(schema: Any, place: str, found: list[Any]) -> list[bytes]:
    made = []
    for one in found:
        usual = {"series_id": "a", "timestamp": "2013-01-01", "value": 1.0, "event": "e", "heat": 2.0}
        sink = io.BytesIO()
        fastavro.schemaless_writer(sink, schema, usual | {place: one})
        made.append(AVRO_HEADER.pack(0, 1) + sink.getvalue())
    return made


@pytest.mark.parametrize("place", PLACES)
def test_avro_fields_of_every_type_are_valid_or_quarantined(place: str, tmp_path: Path) -> None:
    for name, (kind, found) in AVRO_TYPES.items():
        decode, schema = avro_decoder_of(tmp_path, place, kind)
        sent = avro_messages(schema, place, found)
        good, bad = read(decode, *sent, None, b"\0\0\0\0\1")
        assert len(good) + len(bad) == len(sent) + 2, name
        alone = [rows_of(read(decode, one), 0) for one in sent]
        assert [rows_of((good, bad), at) for at in range(len(sent))] == alone, name


HOSTILE_JSON = [
    b'{"series_id": "\\ud800", "timestamp": "2013-01-01", "value": 1}',
    b'{"series_id": "a\\u0000b", "timestamp": "2013-01-01", "value": 1}',
    b'{"series_id": "\xff", "timestamp": "2013-01-01", "value": 1}',
    b'{"series_id": ["a"], "timestamp": {"t": 1}, "value": [1, "x"]}',
    b'{"series_id": "a", "timestamp": "2013-01-01", "value": 1e999}',
    b'{"series_id": "a", "timestamp": 1e400, "value": -0.0}',
    b'{"series_id": 123456789012345678901234567890, "timestamp": "2013-01-01", "value": 1}',
    b'{"series_id": 1.0, "timestamp": 1356998400000000000000, "value": 18446744073709551616}',
    b'{"series_id": "a", "timestamp": "2013-01-01", "value": 0.30000000000000004}',
    b'{"series_id": "a", "timestamp": "2013-01-01", "value": 123456789012345680000}',
    b'{"series_id": true, "timestamp": false, "value": true}',
    b"{}",
    b'{"value": 1, "value": "x", "series_id": "a", "timestamp": "2013-01-01"}',
    b'\xef\xbb\xbf{"series_id": "a", "timestamp": "2013-01-01", "value": 1}',
    b'{"series_id": "a", "timestamp": "2013-01-01", "value": NaN}',
]


@pytest.mark.parametrize("value", HOSTILE_JSON, ids=repr)
def test_hostile_json_is_read_equally_alone_and_among_other_messages(value: bytes) -> None:
    decode = DecoderSpec().decoder()
    plain = b'{"series_id": "a", "timestamp": "2013-01-01", "value": 1}'
    good, bad = read(decode, plain, value)
    assert len(good) + len(bad) == 2
    alone = rows_of(read(decode, value), 0)
    assert rows_of((good, bad), 1) == alone
    assert rows_of(read(decode, b"nope", value), 1) == alone


def test_message_keys_that_are_not_text_are_quarantined() -> None:
    value = b'{"timestamp": "2013-01-01", "value": 1}'
    decode = DecoderSpec(series_in_key=True).decoder()
    (frame,) = decoded(decode, Messages([value] * 3, [b"\xff", b"\xfe", b"a"]))
    good, bad = observations.validate(frame.rename({"message": "offset"}))
    assert good["series_id"].to_list() == ["a"]
    assert bad["column"].to_list() == ["series_id"] * 2


def test_a_topic_of_hostile_messages_is_read_completely(tmp_path: Path) -> None:
    sent: list[bytes | None] = [arrow_message(place, column) for place in PLACES for column in TYPES.values()]
    sent += [None, b"", b"nope", b"ARROW1", b"\xff" * 9]
    topic = Topic({0: sent}, {0: len(sent)})
    source = KafkaSource(
        Broker("nowhere:9092"), "rows", DecoderSpec("arrow", COLUMNS), Input(COLUMNS),
        HOUR, tmp_path, opens=topic, poll_rows=50,
    )  # fmt: skip
    reading, places = Reading(source), source.begin({})
    found = 0
    while places["rows-0"].offset < len(sent):
        step = reading.step(places)
        places = step.reached
        found += sum(len(batch.rows) + len(batch.rejected) for batch in step.batches)
        for batch in step.batches:
            assert batch.rejected["file"].str.contains(r"^rows/0/\d+$").all()
    assert found == CELLS * len(PLACES) * len(TYPES) + 5
    for name, kind in (("value", "duration_us"), ("series_id", "binary")):
        again = replace(source, opens=Topic({0: [arrow_message(name, TYPES[kind])]}, {0: 1}))
        topic.chance = np.random.default_rng(0)
        reading, places = Reading(again), again.begin({})
        batches = [batch for _ in range(9) for batch in reading.step(places).batches if len(batch.rejected)]
        reason = batches[0].rejected.row(0, named=True)
        assert (reason["file"], reason["column"]) == ("rows/0/0", name)
        assert f"column {name} is " in reason["reason"]
