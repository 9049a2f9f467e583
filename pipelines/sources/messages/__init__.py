"""Messages of a topic into raw frames: JSON, Avro, Arrow, or by a function of one's own."""

from pipelines.sources.messages.base import Decoder, Messages, decoded
from pipelines.sources.messages.chosen import DecoderSpec

__all__ = ["Decoder", "DecoderSpec", "Messages", "decoded"]
