"""Decode the messages of a topic into raw frames: JSON, Avro, Arrow, or with a function of the user."""

from pipelines.sources.messages.base import Decoder, Messages, decoded
from pipelines.sources.messages.choose_decoder import DecoderSpec
from pipelines.sources.messages.registry_schemas import RegistryAway

__all__ = ["Decoder", "DecoderSpec", "Messages", "RegistryAway", "decoded"]
