"""Decode messages that each hold one Avro record after a zero byte and the id of its schema."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
import polars as pl

from pipelines.schema_registry import AVRO_HEADER
from pipelines.sources.messages.base import (
    MESSAGE,
    NO_SCHEMA,
    UNDECODABLE,
    Decoder,
    Messages,
    problems,
    shown,
)
from pipelines.sources.messages.field_names import Names
from pipelines.sources.messages.registry_schemas import SchemaUnknown
from schemas.errors import DataError

Schemas = Callable[[int], Any]
"""Returns the parsed Avro schema of an id; raises `SchemaUnknown` if no schema has the id."""


def avro_decoder(names: Names, schemas: Schemas) -> Decoder:
    """Return a decoder of Avro messages that gets the schema of each message from ``schemas``."""

    def decode(messages: Messages) -> list[pl.DataFrame]:
        records: list[Mapping[str, object]] = []
        places: list[int] = []
        bad: dict[str, list[tuple[int, str]]] = {}
        for place, value in enumerate(messages.values):
            try:
                records.append(_record(value or b"", schemas))
                places.append(place)
            except SchemaUnknown as error:
                bad.setdefault(NO_SCHEMA, []).append((place, str(error)))
            except ValueError as error:
                bad.setdefault(UNDECODABLE, []).append((place, str(error)))
        frames = frames_of(records, names, places)
        for kind, found in bad.items():
            frames.append(problems([place for place, _ in found], [reason for _, reason in found], kind))
        return frames

    return decode


def _record(value: bytes, schemas: Schemas) -> Mapping[str, object]:
    if len(value) < AVRO_HEADER.size:
        raise ValueError(f"is {len(value)} bytes long; an Avro message begins with a header of 5 bytes")
    zero, number = AVRO_HEADER.unpack_from(value)
    if zero:
        raise ValueError(f"begins with byte {zero}; an Avro message begins with 0 and the id of its schema")
    schema = schemas(number)
    try:
        record = fastavro.schemaless_reader(io.BytesIO(value[AVRO_HEADER.size :]), schema, None)
    except Exception as error:  # fastavro raises errors of many types for invalid bytes
        raise ValueError(f"is not a record of Avro schema {number} ({shown(str(error))})") from None
    if not isinstance(record, dict):
        raise ValueError("is not an Avro record")
    return record


def frames_of(
    records: Sequence[Mapping[str, object]], names: Names, places: Sequence[int]
) -> list[pl.DataFrame]:
    """Convert records to raw frames; in a frame, all non-null cells of a column have the same type.

    Args:
        records: the decoded messages.
        names: the fields to read.
        places: the index of each record's message in the poll.
    """
    columns = {
        column: [_cell(next((r[n] for n in known if r.get(n) is not None), None)) for r in records]
        for column, known in names.by_column.items()
    }
    types = {name: [type(cell) for cell in cells] for name, cells in columns.items()}
    if all(len({*found} - {type(None)}) <= 1 for found in types.values()):
        rows_by_types: dict[tuple[type, ...], list[int]] = {(): list(range(len(records)))}
    else:
        rows_by_types = {}
        for row, found in enumerate(zip(*types.values(), strict=True)):
            rows_by_types.setdefault(found, []).append(row)
    return [
        names.with_series_id(
            pl.DataFrame(
                {
                    **{name: series_of([cells[row] for row in rows]) for name, cells in columns.items()},
                    MESSAGE: pl.Series([places[row] for row in rows], dtype=pl.Int64),
                }
            )
        )
        for rows in rows_by_types.values()
    ]


def _cell(cell: object) -> object:
    """Convert a cell for a Polars column: lists, dicts, Decimals and UUIDs become text."""
    if isinstance(cell, list | dict | tuple):
        return json.dumps(cell, default=str, separators=(",", ":"))
    if isinstance(cell, Decimal):
        return f"{cell.normalize():f}"
    return str(cell) if isinstance(cell, UUID) else cell


def series_of(cells: Sequence[object]) -> pl.Series:
    """Convert the cells of a column to a Polars series; the cells that are not None have one Python type.

    The series holds text if no type of Polars fits all cells.
    """
    try:
        return pl.Series(cells)
    except (Exception, pl.exceptions.PanicException):
        return pl.Series([None if cell is None else str(cell) for cell in cells], dtype=pl.String)


def schema_of_file(path: Path) -> Schemas:
    """Read the Avro schema in a file; return a function that returns this schema for every schema id.

    Raises:
        DataError: the file cannot be read, or is not an Avro schema.
    """
    try:
        schema = fastavro.parse_schema(json.loads(path.read_text()))
    except OSError as error:
        raise DataError(f"{path}: the Avro schema cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, fastavro.schema.SchemaParseException) as error:
        raise DataError(f"{path}: is not an Avro schema: {' '.join(str(error).split())[:200]}") from None
    return lambda number: schema
