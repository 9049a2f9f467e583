"""Send forecasts (also of a shadow), late rows and quarantined rows to Kafka topics.

Delivery is at least once. A snapshot is written only after the broker has acknowledged all earlier messages.
A job that resumes after a crash sends all messages after its last snapshot again. A repeated forecast has the
same identity as the first one. The identity is in the key and the headers of each message, so consumers can
drop repetitions.
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
from pipelines.settings.kafka import (
    ANSWER_LIMIT_S,
    Broker,
    LastError,
    client,
    convert_client_errors,
    error_of,
)
from pipelines.sinks.files import FORECASTS, LATE, QUARANTINE, SHADOW
from schemas.errors import OutputError
from schemas.forecasts import IDENTITY

MessageFormat = Literal["json", "avro", "arrow"]

_ARROW_BYTES = 500_000  # about the size of an Arrow message; a broker's default limit is a million bytes
_FLUSHED_EVERY_S = 0.5
# Headers of a message with one forecast, as JSON or Avro; the series id is the key of the message.
_HEADERS = tuple(name for name in IDENTITY if name != "series_id")

Message = tuple[bytes | None, bytes, list[tuple[str, bytes]]]
"""Key, value and headers."""


@dataclass(frozen=True)
class Topics:
    """The topics to which a job sends its output, and the format of the messages.

    Attributes:
        broker: the Kafka broker.
        forecasts: topic of the forecasts.
        format: format of the forecasts. JSON and Avro: one forecast per message, with the series id as the
            key, and the rest of its identity in the headers ``issued_at``, ``model_version`` and
            ``revision``. Arrow: many forecasts per message.
        registry: URL of a schema registry, for Avro.
        late, quarantine: topics of late and quarantined rows, as JSON; if empty, these rows are written to
            files.
        shadow: topic of the forecasts of the shadow, in ``format``; if empty, these forecasts are written to
            files.
    """

    broker: Broker
    forecasts: str
    format: MessageFormat = "json"
    registry: str = field(default="", repr=False)
    late: str = ""
    quarantine: str = ""
    shadow: str = ""

    def of(self, part: str) -> str:
        """Return the topic of a part of the output; "" if this part is written to files."""
        return {
            FORECASTS: self.forecasts,
            LATE: self.late,
            QUARANTINE: self.quarantine,
            SHADOW: self.shadow,
        }[part]


class TopicWriter:
    """Sends the output of all shards of a process to topics; all threads of the process share one writer.

    Args:
        topics: the topics.

    Raises:
        ConfigError: an option is invalid, or a package is missing.
        DataError: the schema registry cannot be reached.
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
        with convert_client_errors(topics.broker, self.last, sending=True):
            self._producer = client("Producer")({**settings, "on_delivery": self._delivered})

    def write_forecasts(self, forecasts: Forecasts, shard: str, part: str = FORECASTS) -> None:
        """Send a block of forecasts.

        Args:
            forecasts: the forecasts.
            shard: label of the shard of the forecasts.
            part: ``forecasts``, or ``forecasts-shadow`` for forecasts of the shadow.

        Raises:
            OutputError: an earlier message could not be delivered.
        """
        frame, topic = forecasts.frame(), self.topics.of(part)
        if self.topics.format == "arrow":
            made = _arrow_messages(frame, shard)
        else:
            values = _json_lines(frame) if self._avro is None else self._avro(topic, frame)
            made = _message_each(frame, values)
        self._send(topic, made)

    def write_rows(self, part: str, rows: pl.DataFrame) -> None:
        """Send each late or quarantined row as a message in JSON.

        Late rows have the series id as the key, and partition and offset in headers. Quarantined rows have
        the file as the key.

        Raises:
            OutputError: an earlier message could not be delivered.
        """
        key, *names = ("series_id", "partition", "offset") if part == LATE else ("file",)
        cells = rows.select(pl.col(key, *names).cast(pl.String).cast(pl.Binary)).iter_rows()
        messages = (
            (of, line, [*zip(names, place, strict=True)])
            for (of, *place), line in zip(cells, _json_lines(rows), strict=True)
        )
        self._send(self.topics.of(part), messages)

    def flush(self) -> None:
        """Wait until the broker has acknowledged all messages.

        Raises:
            OutputError: a message could not be delivered.
        """
        while self._producer.flush(_FLUSHED_EVERY_S) and self._failed is None:
            pass
        self._raise_failure()

    def _send(self, topic: str, messages: Iterator[Message]) -> None:
        with self._lock, convert_client_errors(self.topics.broker, self.last, sending=True):
            for key, value, headers in messages:
                while True:
                    try:
                        self._producer.produce(topic, value, key, headers=headers)
                        break
                    except BufferError:
                        # The client's queue is full, because the broker is slower than this job. So wait.
                        self._producer.poll(_FLUSHED_EVERY_S)
                        self._raise_failure()
            self._producer.poll(0)
        self._raise_failure()

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None and self._failed is None:
            found = error_of(self.topics.broker, error, self.last, OutputError)
            self._failed = OutputError(f"topic {message.topic()!r}: {found}")

    def _raise_failure(self) -> None:
        if self._failed is not None:
            raise self._failed


def check_topics(topics: Topics) -> None:
    """Check that every topic that a job sends to exists; call this before the job begins.

    Raises:
        OutputError: no broker answers, it refuses access, or a topic is missing.
        ConfigError: an option is invalid, or a package is missing.
    """
    last = LastError()
    with convert_client_errors(topics.broker, last, sending=True):
        asking = client("Consumer")({**topics.broker.settings(last), "group.id": "statecast"})
        try:
            there = asking.list_topics(timeout=ANSWER_LIMIT_S).topics
        except client("KafkaException"):
            # Poll once, because the client calls `last` with the cause of the error only during a poll.
            asking.poll(0)
            raise
    for setting, topic in (
        ("to_topic", topics.forecasts),
        ("to_late", topics.late),
        ("to_quarantine", topics.quarantine),
        ("to_shadow", topics.shadow),
    ):
        if topic and topic not in there:
            raise OutputError(
                f"{topics.broker.bootstrap}: there is no topic {topic!r}: create it, or change "
                f"kafka.{setting}"
            )


def _message_each(frame: pl.DataFrame, values: Sequence[bytes]) -> Iterator[Message]:
    """Yield one message for each forecast: the key is its series id, the value is its item of ``values``."""
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


def _arrow_messages(frame: pl.DataFrame, shard: str) -> Iterator[Message]:
    """Yield messages of many forecasts each; the shard is the key, so that each series stays in order."""
    rows = max(1, _ARROW_BYTES * len(frame) // max(int(frame.estimated_size()), 1))
    version = frame["model_version"][0]
    for part in frame.iter_slices(rows):
        sink = io.BytesIO()
        part.write_ipc_stream(sink)
        yield shard.encode(), sink.getvalue(), [("model_version", version.encode())]


def _json_lines(frame: pl.DataFrame) -> list[bytes]:
    """Convert each row of a frame to a line of JSON, faster than `DataFrame.write_ndjson`."""
    line = pl.struct(pl.all()).struct.json_encode().cast(pl.Binary)
    return frame.select(line).to_series().to_list()


def _avro_encoder(topics: Topics) -> Callable[[str, pl.DataFrame], list[bytes]]:
    """Return a function that encodes each forecast as an Avro record in the registry's wire format.

    For each new set of quantiles, the function first registers a schema under the subject ``TOPIC-value``.
    """
    known: dict[tuple[str, ...], tuple[bytes, Any]] = {}

    def encode(topic: str, frame: pl.DataFrame) -> list[bytes]:
        quantiles = tuple(name for name in _nested_names(frame) if name != "horizon")
        if (topic, *quantiles) not in known:
            path, user = f"/subjects/{topic}-value/versions", topics.broker.registry_user
            schema = _avro_schema(frame.schema, quantiles)
            number = send_request(topics.registry, path, user, {"schema": json.dumps(schema)})["id"]
            known[topic, *quantiles] = AVRO_HEADER.pack(0, number), fastavro.parse_schema(schema)
        head, parsed = known[topic, *quantiles]
        made = []
        for record in _with_avro_names(frame, quantiles).to_dicts():
            sink = io.BytesIO(head)
            sink.seek(0, io.SEEK_END)
            fastavro.schemaless_writer(sink, parsed, record)
            made.append(sink.getvalue())
        return made

    return encode


def _avro_name(quantile: str) -> str:
    return quantile.replace(".", "_")


def _with_avro_names(frame: pl.DataFrame, quantiles: Sequence[str]) -> pl.DataFrame:
    names = ["horizon", *map(_avro_name, quantiles)]
    return frame.with_columns(pl.col("forecast").list.eval(pl.element().struct.rename_fields(names)))


def _nested_names(frame: pl.DataFrame) -> list[str]:
    dtype = frame.schema["forecast"]
    assert isinstance(dtype, pl.List)
    assert isinstance(dtype.inner, pl.Struct)
    return [field.name for field in dtype.inner.fields]


def _avro_schema(columns: pl.Schema, quantiles: Sequence[str]) -> dict[str, Any]:
    """Return the Avro schema of a forecast frame. Avro names may not contain dots, so q2.5 becomes q2_5."""
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
