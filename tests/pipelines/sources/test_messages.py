"""Tests of decoders, which convert messages of several formats to raw frames, tables of unvalidated rows.

A message that cannot be decoded does not affect the rows of other messages.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.schema_registry import AVRO_HEADER
from pipelines.settings.data_config import Columns
from pipelines.sources import messages as sources
from pipelines.sources.messages import Decoder, DecoderSpec, Messages
from pipelines.sources.messages.as_json import json_decoder
from pipelines.sources.messages.field_names import Names
from schemas import observations
from schemas.errors import ConfigError, DataError
from schemas.observations import OBSERVED

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Row",
    "fields": [
        {"name": "series_id", "type": "string"},
        {"name": "timestamp", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "value", "type": ["null", "double"]},
    ],
}


def decoded(decode: Decoder, given: Messages) -> pl.DataFrame:
    """Decode messages, and return all rows in one frame, sorted by the number of the message."""
    frames = sources.decoded(decode, given)
    return pl.concat(frames, how="diagonal_relaxed").sort("message", maintain_order=True)


def messages(*values: bytes | None, keys: list[bytes | None] | None = None) -> Messages:
    return Messages(values, keys or [None] * len(values))


def row(series: str, value: object, hour: int = 5) -> dict[str, object]:
    return {"series_id": series, "timestamp": f"2024-01-31T{hour:02}:00:00Z", "value": value}


def as_json(*rows: dict[str, object]) -> list[bytes]:
    return [json.dumps(one).encode() for one in rows]


def as_arrow(*rows: dict[str, object]) -> bytes:
    sink = io.BytesIO()
    pl.DataFrame(rows).write_ipc_stream(sink)
    return sink.getvalue()


def as_avro(series: str, value: float | None, number: int = 7) -> bytes:
    sink = io.BytesIO()
    record = {"series_id": series, "timestamp": 1_706_677_200_000_000, "value": value}
    fastavro.schemaless_writer(sink, fastavro.parse_schema(SCHEMA), record)
    return AVRO_HEADER.pack(0, number) + sink.getvalue()


def valid_rows(frame: pl.DataFrame) -> list[tuple[str, float, int]]:
    """Return the series id, the value and the message number of each valid row."""
    rows, _ = observations.validate(frame.rename({"message": "offset"}))
    return list(rows.select("series_id", "value", "offset").iter_rows())


def problems(frame: pl.DataFrame) -> list[tuple[int, str]]:
    """Return the number of each message that could not be decoded, and the reason."""
    if "problem" not in frame.columns:
        return []
    return list(frame.filter(pl.col("problem").is_not_null()).select("message", "problem").iter_rows())


def test_json_objects_are_read_by_usual_field_names() -> None:
    other = {"unique_id": "b", "ds": 1_706_677_200_000, "y": "2.5", "more": {"x": [1]}}
    frame = decoded(DecoderSpec().decoder(), messages(*as_json(row("a", 1.25), other)))
    assert valid_rows(frame) == [("a", 1.25, 0), ("b", 2.5, 1)]
    assert frame.columns == ["series_id", "timestamp", "value", "message"]


def test_field_names_of_json_messages_can_be_configured() -> None:
    columns = Columns(series_id="sensor", timestamp="at", value="temp", event_id="nr")
    value = b'{"sensor": "a", "at": "2024-01-31", "temp": 1, "nr": 17, "value": 5}'
    frame = decoded(DecoderSpec(columns=columns).decoder(), messages(value))
    assert frame.rows() == [("a", "2024-01-31", "1", "17", 0)]


@pytest.mark.parametrize(
    "bad",
    [b"nope", b"\xff\x00\xfe", b"[1, 2]", b"5", b'{"a": 1', b'{"a": 1} {"a": 2}', b"[" * 100_000, b"   "],
    ids=repr,
)
def test_a_message_other_than_one_json_object_is_rejected(bad: bytes) -> None:
    one, other = as_json(row("a", 1.0), row("b", 2.0))
    frame = decoded(DecoderSpec().decoder(), messages(one, bad, None, other))
    assert valid_rows(frame) == [("a", 1.0, 0), ("b", 2.0, 3)]
    (first, no_object), (second, tombstone) = problems(frame)
    assert (first, second) == (1, 2)
    assert no_object.startswith("is not a JSON object")
    assert len(no_object) < 130
    assert "tombstone" in tombstone


def test_json_over_several_lines_is_one_message() -> None:
    pretty = json.dumps(row("a", 1.0), indent=2).encode() + b"\n"
    assert valid_rows(decoded(DecoderSpec().decoder(), messages(pretty, pretty))) == [
        ("a", 1.0, 0),
        ("a", 1.0, 1),
    ]


cells = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5)
numbers = st.floats(-1e12, 1e12, allow_subnormal=False).map(lambda x: 0.0 if x == 0 else x)


any_json = st.recursive(
    cells | st.floats() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
json_rows = st.fixed_dictionaries({"series_id": any_json, "timestamp": any_json, "value": any_json})
raw_messages = json_rows.map(lambda cells: json.dumps(cells).encode()) | st.sampled_from(
    [b"nope", b"[1]", b"", b"{}", b'{"value": 1e400}', b'{"value": 1.0, "value": 2}', b'{"a":\n1}\n{"a": 2}']
)


@given(values=st.lists(raw_messages, min_size=1, max_size=6))
@example(values=[b'{"timestamp": 1764500000000000.0}', b"nope"])
@example(values=[b'{"series_id": [1.0, "\xc3\xa9"]}', b'{"value": NaN}'])
def test_a_json_message_gives_equal_rows_alone_and_with_others(values: list[bytes]) -> None:
    decode = DecoderSpec().decoder()
    together = decoded(decode, messages(*values))
    for number, value in enumerate(values):
        alone = decoded(decode, messages(value)).with_columns(pl.lit(number, pl.Int64).alias("message"))
        one = together.filter(pl.col("message") == number)
        # a frame of several messages may have further columns, which are empty for this message
        extra = [name for name in one.columns if name not in alone.columns]
        assert all(one[name].null_count() == len(one) for name in extra)
        assert one.select(alone.columns).equals(alone)


def test_a_json_nan_does_not_change_how_other_numbers_decode() -> None:
    decode = json_decoder(Names.of(Columns(observed=("heat",)), series_in_key=False))
    texts = [b'{"series_id": 1e15, "value": 2.0, "heat": %s}' % heat for heat in (b"1", b"NaN", b"1e400")]
    frame = decoded(decode, messages(*texts))
    assert frame["series_id"].to_list() == ["1000000000000000"] * 3
    assert frame["value"].to_list() == ["2"] * 3
    assert frame[OBSERVED + "heat"].to_list() == ["1", "NaN", "1e400"]


FIELDS = ["series_id", "unique_id", "item_id", "timestamp", "ds", "value", "y", "target", "heat", "more"]
fields = st.dictionaries(st.sampled_from(FIELDS), cells | numbers, max_size=len(FIELDS))
usual = st.fixed_dictionaries({"series_id": cells, "timestamp": cells, "value": cells | numbers})
both = st.builds(lambda some, more: more | some, usual, fields)


@given(rows=st.lists(usual | both, min_size=1, max_size=3) | st.lists(fields, min_size=1, max_size=3))
def test_unused_json_fields_do_not_change_the_rows(rows: list[dict[str, object]]) -> None:
    names = Names.of(Columns(observed=("heat",)), series_in_key=False)
    lines = io.BytesIO(b"\n".join(as_json(*rows)))
    of_all = pl.read_ndjson(lines, schema=dict.fromkeys(names.fields, pl.String))
    of_all = names.chosen(of_all, pl.int_range(len(rows), eager=True)).drop("message")
    found = decoded(json_decoder(names), messages(*as_json(*rows)))
    assert found.drop("message").equals(of_all)


def test_nan_is_rejected_by_validation_not_by_decoding() -> None:
    frame = decoded(DecoderSpec().decoder(), messages(*as_json(row("a", float("nan")), row("b", 1))))
    assert valid_rows(frame) == [("b", 1.0, 1)]
    assert problems(frame) == []


def test_rows_of_an_arrow_message_share_its_message_number() -> None:
    stream = as_arrow(row("a", 1.0), row("b", 2.0))
    file = io.BytesIO()
    pl.DataFrame([row("c", 3)]).write_ipc(file)
    frame = decoded(DecoderSpec("arrow").decoder(), messages(stream, b"nope", file.getvalue()))
    assert valid_rows(frame) == [("a", 1.0, 0), ("b", 2.0, 0), ("c", 3.0, 2)]
    ((number, problem),) = problems(frame)
    assert number == 1
    assert problem.startswith("cannot be decoded; ")


def test_avro_records_are_read_with_a_schema_file(tmp_path: Path) -> None:
    path = tmp_path / "row.avsc"
    path.write_text(json.dumps(SCHEMA))
    decode = DecoderSpec("avro", schema=str(path)).decoder()
    whole = as_avro("b", 2.0)
    frame = decoded(decode, messages(as_avro("a", 1.5), whole[:-3], b"\x01" + whole[1:], whole, b"\0"))
    assert valid_rows(frame) == [("a", 1.5, 0), ("b", 2.0, 3)]
    assert [place for place, _ in problems(frame)] == [1, 2, 4]
    assert "begins with byte 1" in problems(frame)[1][1]


def test_avro_without_a_usable_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs a schema: set kafka\.avro_schema to a file"):
        DecoderSpec("avro").decoder()
    with pytest.raises(DataError, match=r"none\.avsc: the Avro schema cannot be read"):
        DecoderSpec("avro", schema=str(tmp_path / "none.avsc")).decoder()
    (tmp_path / "bad.avsc").write_text('{"type": "nonsense"}')
    with pytest.raises(DataError, match=r"bad\.avsc: is not an Avro schema"):
        DecoderSpec("avro", schema=str(tmp_path / "bad.avsc")).decoder()


def test_the_message_key_can_be_the_series_id() -> None:
    values = as_json({"timestamp": "2024-01-31", "value": 1}, {"timestamp": "2024-01-31", "value": 2})
    decode = DecoderSpec(series_in_key=True).decoder()
    assert valid_rows(decoded(decode, messages(*values, keys=[b"a", "ü".encode()]))) == [
        ("a", 1.0, 0),
        ("ü", 2.0, 1),
    ]
    assert valid_rows(decoded(decode, messages(*values, keys=[None, b"b"]))) == [("b", 2.0, 1)]


def decode_commas(given: Messages) -> pl.DataFrame:
    """Decode messages of the form ``series,time,value``; an example of a decoder that a user writes."""
    parts = [(value or b"").decode().split(",") for value in given.values]
    return pl.DataFrame(
        {
            "series_id": [p[0] for p in parts],
            "timestamp": [p[1] for p in parts],
            "value": [float(p[2]) for p in parts],
            "message": range(len(parts)),
        }
    )


@pytest.fixture
def custom_spec(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Messages], object]], DecoderSpec]:
    """Return a function that makes a custom decoder importable, and returns the spec that names it."""

    def named(function: Callable[[Messages], object]) -> DecoderSpec:
        module = type(sys)("my_decoders")
        vars(module)["decode"] = function
        monkeypatch.setitem(sys.modules, "my_decoders", module)
        return DecoderSpec("my_decoders:decode")

    return named


def test_a_custom_decoder_rejects_only_messages_it_cannot_decode(
    custom_spec: Callable[[Callable[[Messages], object]], DecoderSpec],
) -> None:
    values = [f"s{i},2024-01-31,{'x' if i in (2, 11) else i}".encode() for i in range(20)]
    frame = decoded(custom_spec(decode_commas).decoder(), messages(*values, keys=None))
    assert [place for *_, place in valid_rows(frame)] == [i for i in range(20) if i not in (2, 11)]
    assert [place for place, _ in problems(frame)] == [2, 11]
    assert problems(frame)[0][1] == "cannot be decoded; could not convert string to float: 'x'"
    assert frame["message"].to_list() == list(range(20))


def test_an_unusable_message_decoder_is_refused(
    custom_spec: Callable[[Callable[[Messages], object]], DecoderSpec],
) -> None:
    for name in ("no_such_module:decode", "json:no_such_function", "xml"):
        with pytest.raises(ConfigError, match="json, avro, arrow, or the module:function"):
            DecoderSpec(name).decoder()
    with pytest.raises(DataError, match="returned no Polars frame"):
        decoded(custom_spec(lambda given: 5).decoder(), messages(b"x"))


@pytest.mark.parametrize("kind", ["json", "arrow", "avro"])
def test_an_observed_covariate_absent_from_a_message_becomes_null(kind: str, tmp_path: Path) -> None:
    rows = [row("a", 1.5) | {"heat": 20.5}, row("b", 2.5)]
    if kind == "json":
        sent = as_json(*rows)
    elif kind == "arrow":
        sent = [as_arrow(one) for one in rows]
    else:
        field = {"name": "heat", "type": ["null", "double"]}
        schema = fastavro.parse_schema(SCHEMA | {"fields": [*SCHEMA["fields"], field]})
        (tmp_path / "row.avsc").write_text(json.dumps(schema))
        sent = []
        for one in rows:
            sink = io.BytesIO()
            record = {"heat": None, **one, "timestamp": 1_706_677_200_000_000}
            fastavro.schemaless_writer(sink, schema, record)
            sent.append(AVRO_HEADER.pack(0, 1) + sink.getvalue())
    spec = DecoderSpec(kind, Columns(observed=("heat",)), schema=str(tmp_path / "row.avsc"))
    rows_read, bad = observations.validate(decoded(spec.decoder(), messages(*sent)))
    assert bad.is_empty()
    assert rows_read["observed.heat"].to_list() == [20.5, None]
