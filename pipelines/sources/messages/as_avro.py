"""One Avro record a message, as schema registries have it: a zero byte, the schema's id, the record."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import fastavro
import polars as pl

from pipelines.registry import FRAME, ask_registry
from pipelines.sources.messages.base import Decoder, Messages, frame_of
from pipelines.sources.messages.names import Names
from schemas.errors import DataError

Schemas = Callable[[int], Any]
"""A parsed Avro schema by its id; raises KeyError where there is none."""


def avro_decoder(names: Names, schemas: Schemas) -> Decoder:
    """Decodes records of the schemas that ``schemas`` knows."""

    def decode(messages: Messages) -> pl.DataFrame:
        records: list[Any] = []
        for value in messages.values:
            assert value
            if len(value) < FRAME.size:
                raise ValueError(f"is {len(value)} bytes, and 5 come before an Avro record")
            zero, number = FRAME.unpack_from(value)
            if zero:
                raise ValueError(f"begins with byte {zero}, and not with 0 and the id of an Avro schema")
            schema = schemas(number)
            try:
                record = fastavro.schemaless_reader(io.BytesIO(value[FRAME.size :]), schema, None)
            except Exception as error:  # whatever bytes that are no record come to
                raise ValueError(f"is no record of Avro schema {number} ({error})") from None
            if not isinstance(record, dict):
                raise ValueError("is no Avro record")
            records.append(record)
        return frame_of(records, names.by_column, range(len(records)))

    return decode


def schema_of_file(path: Path) -> Schemas:
    """The schema of a file, whatever id a message names.

    Raises:
        DataError: there is none, or it is no Avro schema.
    """
    try:
        schema = fastavro.parse_schema(json.loads(path.read_text()))
    except OSError as error:
        raise DataError(f"{path}: the Avro schema cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, fastavro.schema.SchemaParseException) as error:
        raise DataError(f"{path}: is no Avro schema: {' '.join(str(error).split())[:200]}") from None
    return lambda number: schema


def schemas_of_registry(url: str, user_info: str = "") -> Schemas:
    """The schemas of a registry, each fetched once.

    Args:
        url: of the registry.
        user_info: ``name:password``, if it asks for one.
    """

    @lru_cache(maxsize=1024)
    def fetched(number: int) -> Any:
        try:
            found = ask_registry(url, f"/schemas/ids/{number}", user_info)
        except KeyError:
            raise KeyError(f"the registry knows no schema of id {number}") from None
        return fastavro.parse_schema(json.loads(found["schema"]))

    return fetched
