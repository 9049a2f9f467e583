"""Choose the decoder of messages by the settings of a job, and create it."""

from __future__ import annotations

import importlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from pipelines.settings.data_config import Columns
from pipelines.sources.messages.as_arrow import arrow_decoder
from pipelines.sources.messages.as_json import json_decoder
from pipelines.sources.messages.base import MESSAGE, Decoder, Messages
from pipelines.sources.messages.field_names import Names
from pipelines.sources.messages.registry_schemas import Kept
from schemas.errors import ConfigError, DataError
from schemas.observations import SCHEMA, optional_columns


@dataclass(frozen=True)
class DecoderSpec:
    """The settings of a decoder; each worker receives the settings and creates the decoder from them.

    Attributes:
        kind: ``json``, ``avro``, ``arrow``, or ``module:function`` of the user's own `Decoder`.
        columns: the fields that hold the series, the time and the value.
        series_in_key: whether the key of a message, as text, is the series id.
        schema: Avro: the file of the schema.
        registry: Avro: URL of the schema registry, used if ``schema`` is empty.
        patience_s: Avro: seconds to wait for a registry that does not answer; after that, messages with an
            unknown schema are rejected.
    """

    kind: str = "json"
    columns: Columns = field(default_factory=Columns)
    series_in_key: bool = False
    schema: str = ""
    registry: str = field(default="", repr=False)
    patience_s: float = 60.0

    def decoder(self, user_info: str = "", kept: Kept | None = None) -> Decoder:
        """Return a new decoder with these settings.

        Args:
            user_info: ``name:password`` for the schema registry.
            kept: the store of schemas that were fetched from the registry; None to store none.

        Raises:
            ConfigError: the user's function does not exist, or Avro has neither a schema file nor a registry.
            DataError: the schema file cannot be read.
        """
        made = self._decoder(Names.of(self.columns, self.series_in_key), user_info, kept)
        return _with_keys(made) if self.series_in_key else made

    def _decoder(self, names: Names, user_info: str, kept: Kept | None) -> Decoder:
        if self.kind == "json":
            return json_decoder(names)
        if self.kind == "arrow":
            return arrow_decoder(names)
        if self.kind != "avro":
            return own_decoder(self.kind)
        from pipelines.sources.messages.as_avro import avro_decoder, schema_of_file
        from pipelines.sources.messages.registry_schemas import RegistrySchemas

        if self.schema:
            return avro_decoder(names, schema_of_file(Path(self.schema)))
        if not self.registry:
            raise ConfigError(
                "kafka.decoder = avro needs a schema: set kafka.avro_schema to a file, or kafka.registry to "
                "the address of a schema registry"
            )
        return avro_decoder(names, RegistrySchemas(self.registry, user_info, self.patience_s, kept))


def own_decoder(name: str) -> Decoder:
    """Return the user's decoder ``module:function``, with checks of the frames that it returns.

    Raises:
        ConfigError: the function cannot be imported.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"kafka.decoder = {name}: {error}; write json, avro, arrow, or the module:function of a "
            "function that can be imported"
        ) from None

    def decode(messages: Messages) -> list[pl.DataFrame]:
        frame = found(messages)
        if not isinstance(frame, pl.DataFrame) or MESSAGE not in frame.columns:
            raise DataError(f"kafka.decoder = {name}: returned no Polars frame with a column `{MESSAGE}`")
        known = [*SCHEMA, *optional_columns(frame.columns), "problem"]
        frame = frame.select(*(one for one in known if one in frame.columns), pl.col(MESSAGE).cast(pl.Int64))
        places = frame[MESSAGE]
        if len(places) and not (places.is_sorted() and places.is_between(0, len(messages) - 1).all()):
            raise DataError(
                f"kafka.decoder = {name}: the column `{MESSAGE}` must be the index of each row's message, "
                f"from 0 to {len(messages) - 1}, ascending"
            )
        return [frame]

    return decode


def _with_keys(decode: Decoder) -> Decoder:
    def with_keys(messages: Messages) -> list[pl.DataFrame]:
        # Convert keys to text. If a key is not UTF-8, all keys stay Binary.
        keys = pl.Series("series_id", messages.keys, pl.Binary)
        with suppress(pl.exceptions.PolarsError):
            keys = keys.cast(pl.String)
        return [frame.with_columns(keys.gather(frame[MESSAGE])) for frame in decode(messages)]

    return with_keys
