"""Many rows a message: an Arrow IPC stream, or file."""

from __future__ import annotations

import io

import polars as pl

from pipelines.sources.messages.base import MESSAGE, Decoder, Messages, joined
from pipelines.sources.messages.names import Names

_FILE = b"ARROW1"


def arrow_decoder(names: Names) -> Decoder:
    """Decodes Arrow IPC; all rows of a message share its place: none is taken in without the rest."""

    def decode(messages: Messages) -> pl.DataFrame:
        frames = []
        for place, value in enumerate(messages.values):
            data = io.BytesIO(value or b"")
            try:
                frame = pl.read_ipc(data) if (value or b"").startswith(_FILE) else pl.read_ipc_stream(data)
            except Exception as error:  # whatever bytes that are none come to
                raise ValueError(f"is no Arrow IPC stream or file ({error})") from None
            frames.append(names.chosen(frame).with_columns(pl.lit(place, pl.Int64).alias(MESSAGE)))
        return joined(frames)

    return decode
