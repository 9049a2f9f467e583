"""Tests of the encoding of forecasts in Avro for Kafka messages; the tests need no broker."""

from __future__ import annotations

import io
import json

import fastavro
import numpy as np
import polars as pl

from forecaster.forecasts import Forecasts
from forecaster.stepping.advance import advance
from forecaster.time.windows import Windows
from pipelines.schema_registry import AVRO_HEADER
from pipelines.settings.kafka import Broker
from pipelines.sinks.kafka import Topics, _avro_encoder
from tests.fleets import START, forecaster
from tests.pipelines.registries import registry_of


def issued() -> Forecasts:
    """Return forecasts; the forecasts of the first window have neither a p-value nor an alarm."""
    model = forecaster()
    values = np.random.default_rng(0).normal(size=(30, 2))
    return advance(model, model.initial_state(), Windows(("a", "b"), START, values))[1]


def test_shadow_forecasts_in_avro_use_the_shadow_topics_subject() -> None:
    frame = issued().frame()
    with registry_of(lambda request: (200, {"id": 7})) as registry:
        topics = Topics(Broker("nowhere:9092"), "forecasts", "avro", registry.url, shadow="beside")
        encode = _avro_encoder(topics)
        for topic in (topics.forecasts, topics.shadow):
            assert len(encode(topic, frame)) == len(frame)
    assert {*registry.posted} == {f"/subjects/{topic}-value/versions" for topic in ("forecasts", "beside")}


def test_forecasts_in_avro_have_every_column() -> None:
    frame = issued().frame()
    assert frame["p_value"].null_count() < len(frame)
    with registry_of(lambda request: (200, {"id": 7})) as registry:
        topics = Topics(Broker("nowhere:9092"), "forecasts", "avro", registry.url)
        values = _avro_encoder(topics)(topics.forecasts, frame)
    schema = fastavro.parse_schema(
        json.loads(registry.posted["/subjects/forecasts-value/versions"]["schema"])
    )
    assert {value[: AVRO_HEADER.size] for value in values} == {AVRO_HEADER.pack(0, 7)}
    read = [
        fastavro.schemaless_reader(io.BytesIO(value[AVRO_HEADER.size :]), schema, None) for value in values
    ]
    made = pl.DataFrame(read, schema_overrides={"revision": pl.Int32})
    assert made.columns == frame.columns
    assert made.drop("forecast").equals(frame.drop("forecast"))
    assert [one["q50"] for one in made["forecast"][0]] == [one["q50"] for one in frame["forecast"][0]]
