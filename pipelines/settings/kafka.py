"""Create settings of Kafka clients, with secrets from the environment, and convert errors of the clients."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from schemas.errors import ConfigError, DataError, OutputError, StatecastError

REGISTRY_USER = "schema.registry.basic.auth.user.info"
"""The option that holds ``name:password`` for the schema registry; it is not passed to the client."""

ANSWER_LIMIT_S = 5.0

_SHORTEST_SECRET = 4  # shorter secrets are not masked, because masking would change ordinary words, too

_REFUSALS = ("_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "_SSL")

_MISSING = "Kafka needs one more package: pip install 'statecast[kafka]'"


@dataclass(frozen=True)
class Broker:
    """The address of Kafka brokers and the client's options, in which ``$NAME`` stands for a secret.

    Attributes:
        bootstrap: ``host:port`` of the brokers, separated by commas.
        options: names and values of options of the client (librdkafka), such as ``sasl.username``; a value
            ``$NAME`` is looked up in the environment of the process that connects.
    """

    bootstrap: str
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def settings(self, on_error: Callable[[Any], None], **own: Any) -> dict[str, Any]:
        """Return the configuration of a Kafka client: the job's options override the caller's defaults.

        Args:
            on_error: function that the client calls with each of its errors.
            own: the defaults, with ``_`` for the dots of their names.

        Raises:
            ConfigError: an option names an environment variable that is not set.
        """
        defaults = {name.replace("_", "."): value for name, value in own.items()}
        given = {name: self._value(name, text) for name, text in self.options if name != REGISTRY_USER}
        # turn off the client's own log, because its lines contain addresses and disturb the job's output
        logging = {"log_level": 0, "error_cb": on_error}
        return {"bootstrap.servers": self.bootstrap, **logging, **defaults, **given}

    @property
    def registry_user(self) -> str:
        """The login for the schema registry as ``name:password``; empty if the options set none."""
        return next((self._value(name, text) for name, text in self.options if name == REGISTRY_USER), "")

    def without_secrets(self, line: str) -> str:
        """Return a message of the Kafka client with each secret replaced by ``$NAME``.

        Secrets are the values, of at least 4 characters, of the environment variables that the options name.
        """
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
    """Stores the last error that a Kafka client reported, except the error that all brokers are down.

    `error_of` names the stored error as the cause if no broker answers or a broker refuses the connection.

    Attributes:
        text: the error as one line; empty if there was none.
        is_refusal: whether a broker answered and refused the connection or the login.
        count: number of errors that the client has reported.
    """

    text: str = ""
    is_refusal: bool = False
    count: int = 0

    def __call__(self, error: Any) -> None:
        """Store an error that the Kafka client reports.

        The error that all brokers are down is counted but not stored, because earlier errors give the reason.
        """
        self.count += 1
        if error.name() != "_ALL_BROKERS_DOWN":
            self.text, self.is_refusal = _one_line(error.str()), error.name() in _REFUSALS


def client(kind: str) -> Any:
    """Import ``confluent_kafka``, and return its class with the name ``kind``, such as ``Consumer``.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        import confluent_kafka
    except ImportError:
        raise ConfigError(_MISSING) from None
    return getattr(confluent_kafka, kind)


@contextmanager
def convert_client_errors(broker: Broker, last: LastError, *, sending: bool = False) -> Iterator[None]:
    """Convert the errors of a Kafka client in the ``with`` block to Statecast errors of one line.

    The line names the broker, or ``kafka.options`` if an option is at fault.

    Args:
        broker: address and options of the client.
        last: last connection error of the client.
        sending: whether the client sends messages, so that its errors are raised as `OutputError`.

    Raises:
        DataError: reading failed.
        OutputError: sending failed.
        ConfigError: the client refuses an option.
    """
    kafka_exception = client("KafkaException")
    try:
        yield
    except kafka_exception as raised:
        kind, client_error = OutputError if sending else DataError, raised.args[0]
        raise error_of(broker, client_error, last, kind) from None
    except ValueError as error:  # for example, the option ``throttle_cb`` is text, but must be a function
        raise ConfigError(f"kafka.options: {broker.without_secrets(_one_line(str(error)))}") from None


def error_of(
    broker: Broker, error: Any, last: LastError, kind: type[StatecastError] = DataError
) -> StatecastError:
    """Convert an error of the Kafka client to a `StatecastError` with a message of one line.

    Args:
        broker: address and options of the client; the line names the address.
        error: error of the client.
        last: last connection error of the client, which explains a time-out.
        kind: class of the returned error, unless an option is at fault.
    """
    name, message = error.name(), broker.without_secrets(_one_line(error.str()))
    has_no_answer = name in ("_TRANSPORT", "_TIMED_OUT", "_ALL_BROKERS_DOWN", "_RESOLVE")
    if has_no_answer and not last.is_refusal:
        why = f" ({broker.without_secrets(last.text)})" if last.text else ""
        return kind(
            f"{broker.bootstrap}: no Kafka broker answers there{why}: see kafka.bootstrap, "
            "and kafka.options if the broker requires TLS or a login"
        )
    if has_no_answer or name in _REFUSALS:
        return kind(
            f"{broker.bootstrap}: the broker refuses the connection "
            f"({broker.without_secrets(last.text) or message}): see kafka.options"
        )
    if name == "_INVALID_ARG":
        return ConfigError(f"kafka.options: {message}")
    return kind(f"{broker.bootstrap}: {message}")


def kafka_options(options: Mapping[str, SecretStr]) -> tuple[tuple[str, str], ...]:
    """Return the Kafka options of a job file as pairs (name, value), sorted by name, for `Broker.options`."""
    return tuple(sorted((name, value.get_secret_value()) for name, value in options.items()))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
