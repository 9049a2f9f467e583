"""How brokers are reached: address and options, with secrets from the environment; errors in one line."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from schemas.errors import ConfigError, DataError, OutputError, StatecastError

REGISTRY_USER = "schema.registry.basic.auth.user.info"
"""Option that is not the client's: ``name:password`` for the schema registry."""

ANSWER_LIMIT_S = 5.0

_SHORTEST_SECRET = 4  # letters; what is shorter is part of many words

_REFUSALS = ("_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "_SSL")

_MISSING = "Kafka needs one more package: pip install 'statecast[kafka]'"


@dataclass(frozen=True)
class Broker:
    """Where brokers are, and how to speak to them; a value that travels to workers without its secrets.

    Attributes:
        bootstrap: ``host:port``, several with commas between.
        options: of the client (librdkafka), as ``sasl.username``; a value ``$NAME`` is looked up in the
            environment of the process that connects.
    """

    bootstrap: str
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def settings(self, on_error: Callable[[Any], None], **own: Any) -> dict[str, Any]:
        """What a client is made with: the job's options over ours (``own``, dots as ``_``).

        Raises:
            ConfigError: the environment lacks a variable that an option names.
        """
        ours = {name.replace("_", "."): value for name, value in own.items()}
        given = {name: self._value(name, text) for name, text in self.options if name != REGISTRY_USER}
        # its own lines would come between those of the job, and they name what was tried in full
        quiet = {"log_level": 0, "error_cb": on_error}
        return {"bootstrap.servers": self.bootstrap, **quiet, **ours, **given}

    @property
    def registry_user(self) -> str:
        """``name:password`` for the schema registry; empty where it asks for none."""
        return next((self._value(name, text) for name, text in self.options if name == REGISTRY_USER), "")

    def without_secrets(self, line: str) -> str:
        """A line of the client's in which the values of variables are their names again."""
        for _, text in self.options:
            value = os.environ.get(text[1:], "") if text.startswith("$") else ""
            if len(value) >= _SHORTEST_SECRET:
                line = line.replace(value, text)
        return line

    def _value(self, name: str, text: str) -> str:
        if not text.startswith("$"):
            return text
        try:
            return os.environ[text[1:]]
        except KeyError:
            raise ConfigError(f"kafka.options.{name} = {text}: the environment has no {text[1:]}") from None


@dataclass
class LastError:
    """What a client said last of its connections, which the calls that then time out do not say.

    Attributes:
        text: one line; empty where there was nothing.
        is_refusal: that line is of a broker that answers, and does not let us in.
        count: how often it said something.
    """

    text: str = ""
    is_refusal: bool = False
    count: int = 0

    def __call__(self, error: Any) -> None:
        """Called by the client; that all brokers are down is only the sum of what it said before."""
        self.count += 1
        if error.name() != "_ALL_BROKERS_DOWN":
            self.text, self.is_refusal = _line(error.str()), error.name() in _REFUSALS


def client(kind: str) -> Any:
    """A class or module-level name of ``confluent_kafka``, which is loaded when it is needed.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import confluent_kafka
    except ImportError:
        raise ConfigError(_MISSING) from None
    return getattr(confluent_kafka, kind)


@contextmanager
def told(broker: Broker, last: LastError, *, sending: bool = False) -> Iterator[None]:
    """What a client raises, as one line that names the broker."""
    kafka_exception = client("KafkaException")
    try:
        yield
    except kafka_exception as raised:
        kind = OutputError if sending else DataError
        raise error_of(broker, raised.args[0], last, kind) from None
    except ValueError as error:  # an option that the client does not know
        raise ConfigError(f"kafka.options: {broker.without_secrets(_line(str(error)))}") from None


@contextmanager
def not_collecting() -> Iterator[None]:
    """Python's collector rests, which would go through all objects of the process for some 100,000 new ones.

    So many messages a client makes at once, none of them part of a cycle. With Beam and torch loaded that
    took most of the time of a poll, and kept all other threads waiting.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def error_of(
    broker: Broker, error: Any, last: LastError, kind: type[StatecastError] = DataError
) -> StatecastError:
    """One of the client's errors as one of ours."""
    name, said = error.name(), broker.without_secrets(_line(error.str()))
    is_silence = name in ("_TRANSPORT", "_TIMED_OUT", "_ALL_BROKERS_DOWN", "_RESOLVE")
    if is_silence and not last.is_refusal:
        why = f" ({broker.without_secrets(last.text)})" if last.text else ""
        return kind(
            f"{broker.bootstrap}: no Kafka broker answers there{why}: see kafka.bootstrap, "
            "and kafka.options if it wants TLS or a login"
        )
    if is_silence or name in _REFUSALS:
        return kind(
            f"{broker.bootstrap}: refuses us ({broker.without_secrets(last.text) or said}): see kafka.options"
        )
    if name == "_INVALID_ARG":
        return ConfigError(f"kafka.options: {said}")
    return kind(f"{broker.bootstrap}: {said}")


def options_of(options: Mapping[str, SecretStr]) -> tuple[tuple[str, str], ...]:
    """The options of a job file as `Broker` has them."""
    return tuple(sorted((name, value.get_secret_value()) for name, value in options.items()))


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
