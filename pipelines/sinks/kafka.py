"""Forecasts, late rows and quarantined rows as messages of topics.

Every message says what it is in its headers, so that a consumer can drop one that it has seen: a job that was
killed writes again what came after its last snapshots, the same forecasts under the same identities. So they
are there once in effect, by their identity; never fewer than once, since a snapshot is written only when the
broker has all that it takes for granted.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import fastavro
import polars as pl

from forecaster.forecasts import Forecasts
from pipelines.schema_registry import AVRO_HEADER, send_request
from pipelines.settings.kafka import ANSWER_LIMIT_S, Broker, LastError, client, error_of, told
from pipelines.sinks.files import LATE, QUARANTINE
from schemas.errors import OutputError
from schemas.forecasts import IDENTITY

MessageFormat = Literal["json", "avro", "arrow"]

_ARROW_BYTES = 500_000  # of one message; brokers take a million by default
_FLUSHED_EVERY_S = 0.5
_HEADERS = tuple(name for name in IDENTITY if name != "series_id")  # which is the key

Message = tuple[bytes | None, bytes, list[tuple[str, bytes]]]
"""Key, value and headers."""


@dataclass(frozen=True)
class Topics:
    """Where what a job makes is sent; a value, since it travels to the workers.

    Attributes:
        broker: where it is.
        forecasts: topic of the forecasts.
        format: of the forecasts. JSON and Avro: a message each, its series the key, and the rest of its
            identity the headers ``issued_at``, ``model_version`` and ``revision``. Arrow: many a message.
        registry: URL of a schema registry, for Avro.
        late, quarantine: topics of these rows, as JSON; where empty, they are files.
    """

    broker: Broker
    forecasts: str
    format: MessageFormat = "json"
    registry: str = field(default="", repr=False)
    late: str = ""
    quarantine: str = ""

    def of(self, part: str) -> str:
        """The topic of late or quarantined rows."""
        return {LATE: self.late, QUARANTINE: self.quarantine}[part]


class TopicWriter:
    """Sends what the shards of a process make; one for all of its threads.

    Args:
        topics: where to.

    Raises:
        ConfigError: an option cannot be, or the package is missing.
        DataError: the schema registry cannot be asked.
    """

    def __init__(self, topics: Topics) -> None:
        self.topics, self.last = topics, LastError()
        self._failed: OutputError | None = None
        self._lock = threading.Lock()
        self._avro = _avro_encoder(topics) if topics.format == "avro" else None
        settings = topics.broker.settings(
            self.last,
            enable_idempotence=True,
            linger_ms=5,
            compression_type="lz4",
            queue_buffering_max_messages=200_000,
            delivery_report_only_error=True,
        )
        with told(topics.broker, self.last, sending=True):
            self._producer = client("Producer")({**settings, "on_delivery": self._delivered})

    def write_forecasts(self, forecasts: Forecasts, shard: str) -> None:
        """Sends a block of forecasts of ``shard``.

        Raises:
            OutputError: an earlier message could not be delivered.
        """
        frame = forecasts.frame()
        if self.topics.format == "arrow":
            made = _arrow(frame, shard)
        else:
            made = _each(frame, _json(frame) if self._avro is None else self._avro(frame))
        self._send(self.topics.forecasts, made)

    def write_rows(self, part: str, rows: pl.DataFrame) -> None:
        """Sends rows as JSON: late ones keyed by series, their place in headers, quarantined ones by place.

        Raises:
            OutputError: an earlier message could not be delivered.
        """
        key, *names = ("series_id", "partition", "offset") if part == LATE else ("file",)
        cells = rows.select(pl.col(key, *names).cast(pl.String).cast(pl.Binary)).iter_rows()
        messages = (
            (of, line, [*zip(names, place, strict=True)])
            for (of, *place), line in zip(cells, _json(rows), strict=True)
        )
        self._send(self.topics.of(part), messages)

    def flush(self) -> None:
        """Waits until the broker has all that was sent before.

        Raises:
            OutputError: it has not taken a message.
        """
        while self._producer.flush(_FLUSHED_EVERY_S) and self._failed is None:
            pass
        self._raise()

    def _send(self, topic: str, messages: Iterator[Message]) -> None:
        with self._lock, told(self.topics.broker, self.last, sending=True):
            for key, value, headers in messages:
                while True:
                    try:
                        self._producer.produce(topic, value, key, headers=headers)
                        break
                    except BufferError:  # more than the client holds: the broker is slower than we are
                        self._producer.poll(_FLUSHED_EVERY_S)
                        self._raise()
            self._producer.poll(0)
        self._raise()

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None and self._failed is None:
            found = error_of(self.topics.broker, error, self.last, OutputError)
            self._failed = OutputError(f"topic {message.topic()!r}: {found}")

    def _raise(self) -> None:
        if self._failed is not None:
            raise self._failed


def check_topics(topics: Topics) -> None:
    """Checks that the topics are there, before a job begins.

    Raises:
        OutputError: no broker answers, it refuses us, or lacks a topic.
        ConfigError: an option cannot be, or the package is missing.
    """
    last = LastError()
    with told(topics.broker, last, sending=True):
        asking = client("Consumer")({**topics.broker.settings(last), "group.id": "statecast"})
        try:
            there = asking.list_topics(timeout=ANSWER_LIMIT_S).topics
        except client("KafkaException"):
            asking.poll(0)  # the client tells `last` why in a poll alone
            raise
    for setting, topic in (
        ("to_topic", topics.forecasts), ("to_late", topics.late), ("to_quarantine", topics.quarantine)
    ):  # fmt: skip
        if topic and topic not in there:
            raise OutputError(
                f"{topics.broker.bootstrap}: there is no topic {topic!r} to write to: see kafka.{setting}"
            )


def _each(frame: pl.DataFrame, values: Sequence[bytes]) -> Iterator[Message]:
    """A message a forecast; those of a window have their headers in common."""
    issued = frame["issued_at"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    columns = (issued, frame["model_version"], frame["revision"].cast(pl.String))
    rows = zip(*columns, strict=True)
    keys = frame["series_id"].cast(pl.Binary)
    known: dict[tuple[str, ...], list[tuple[str, bytes]]] = {}
    for key, value, identity in zip(keys, values, rows, strict=True):
        headers = known.get(identity)
        if headers is None:
            cells = zip(_HEADERS, identity, strict=True)
            headers = known[identity] = [(name, cell.encode()) for name, cell in cells]
        yield key, value, headers


def _arrow(frame: pl.DataFrame, shard: str) -> Iterator[Message]:
    """Messages of many forecasts; the shard is their key, so that those of a series stay in order."""
    rows = max(1, _ARROW_BYTES * len(frame) // max(int(frame.estimated_size()), 1))
    version = frame["model_version"][0]
    for part in frame.iter_slices(rows):
        sink = io.BytesIO()
        part.write_ipc_stream(sink)
        yield shard.encode(), sink.getvalue(), [("model_version", version.encode())]


def _json(frame: pl.DataFrame) -> list[bytes]:
    """As `DataFrame.write_ndjson` has it, in two thirds of the time."""
    line = pl.struct(pl.all()).struct.json_encode().cast(pl.Binary)
    return frame.select(line).to_series().to_list()


def _avro_encoder(topics: Topics) -> Callable[[pl.DataFrame], list[bytes]]:
    """Records in the registry's wire format; the schema of these quantiles under the usual subject."""
    path, user = f"/subjects/{topics.forecasts}-value/versions", topics.broker.registry_user
    known: dict[tuple[str, ...], tuple[bytes, Any]] = {}

    def encode(frame: pl.DataFrame) -> list[bytes]:
        quantiles = tuple(name for name in _nested_names(frame) if name != "horizon")
        if quantiles not in known:
            schema = _avro_schema(frame.schema, quantiles)
            number = send_request(topics.registry, path, user, {"schema": json.dumps(schema)})["id"]
            known[quantiles] = AVRO_HEADER.pack(0, number), fastavro.parse_schema(schema)
        head, parsed = known[quantiles]
        made = []
        for record in _renamed(frame, quantiles).to_dicts():
            sink = io.BytesIO(head)
            sink.seek(0, io.SEEK_END)
            fastavro.schemaless_writer(sink, parsed, record)
            made.append(sink.getvalue())
        return made

    return encode


def _avro_name(quantile: str) -> str:
    return quantile.replace(".", "_")


def _renamed(frame: pl.DataFrame, quantiles: Sequence[str]) -> pl.DataFrame:
    names = ["horizon", *map(_avro_name, quantiles)]
    return frame.with_columns(pl.col("forecast").list.eval(pl.element().struct.rename_fields(names)))


def _nested_names(frame: pl.DataFrame) -> list[str]:
    dtype = frame.schema["forecast"]
    assert isinstance(dtype, pl.List)
    assert isinstance(dtype.inner, pl.Struct)
    return [field.name for field in dtype.inner.fields]


def _avro_schema(columns: pl.Schema, quantiles: Sequence[str]) -> dict[str, Any]:
    """The Avro schema of every column of a forecast frame; a name in Avro may hold no point: q2.5 is q2_5."""
    at = [{"name": "horizon", "type": "int"}, *({"name": _avro_name(q), "type": "double"} for q in quantiles)]
    step = {"type": "record", "name": "Step", "fields": at}
    types: dict[type[pl.DataType], dict[str, Any]] = {
        pl.String: {"type": "string"},
        pl.Datetime: {"type": {"type": "long", "logicalType": "timestamp-micros"}},
        pl.Int32: {"type": "int"},
        pl.Float64: {"type": ["null", "double"], "default": None},
        pl.Boolean: {"type": ["null", "boolean"], "default": None},
        pl.List: {"type": {"type": "array", "items": step}},
    }
    fields = [{"name": name} | types[dtype.base_type()] for name, dtype in columns.items()]
    return {"type": "record", "name": "Forecast", "namespace": "statecast", "fields": fields}
