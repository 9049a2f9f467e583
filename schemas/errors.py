"""The classes of errors that Statecast raises, and the exit code of the command line for each class.

Subclasses are indented below their base class.

::

    StatecastError            the root of all errors; the message is one line                   exit 1
    ├── ConfigError           a job file or an option is invalid                                exit 2
    ├── DataError             files, columns or rows are missing, unreadable or unusable        exit 3
    ├── ModelError            a model, version, run or store is missing or does not fit         exit 4
    │   └── VersionMismatch   a state belongs to another model version                          exit 4
    ├── EngineError           a runner is missing or failed, or the machine fails a check       exit 5
    │   └── EngineLost        a runner died; the same command with --resume continues a stream  exit 5
    ├── OutputError           a file, folder or topic cannot be written                         exit 6
    └── PromotionRefused      an alias was not moved to a new model version                     exit 7

The command line prints ``str(error)`` as one line and exits with ``exit_code``; users of the library catch
``StatecastError``.
"""

from __future__ import annotations

from typing import ClassVar

from schemas.masking import masked


class StatecastError(Exception):
    """The base class of Statecast's errors; a command that raises such an error exits with ``exit_code``.

    The message is one line. Passwords and tokens in the message are masked (`schemas.masking.masked`).
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(masked(part) if isinstance(part, str) else part for part in args))


class ConfigError(StatecastError):
    """A setting or an option is invalid, missing or unknown, has no effect, or contradicts another one."""

    exit_code: ClassVar[int] = 2


class DataError(StatecastError):
    """The data cannot be used: files, columns or rows are missing, unreadable, invalid or too few."""

    exit_code: ClassVar[int] = 3


class ModelError(StatecastError):
    """A model, a model version, an MLflow run or the MLflow store is missing or cannot be used."""

    exit_code: ClassVar[int] = 4


class VersionMismatch(ModelError):
    """A state was computed by another model version; a model can step only states of its own version."""


class EngineError(StatecastError):
    """A runner, or a program that it needs, is missing or failed, or ``statecast doctor`` found a fault."""

    exit_code: ClassVar[int] = 5


class EngineLost(EngineError):
    """A runner or one of its workers died: resume a stream from its snapshots, or run a backfill again."""


class OutputError(StatecastError):
    """A folder, a file or a Kafka topic cannot be written, for example because another job writes there."""

    exit_code: ClassVar[int] = 6


class PromotionRefused(StatecastError):
    """An alias was not moved: the gate refused the version, or a gated retraining registered none."""

    exit_code: ClassVar[int] = 7


def one_line(message: object) -> str:
    """Return a message as one line of at most 200 characters.

    The message may be an exception of another library. If the exception has no text, return the name of its
    class.
    """
    return " ".join(str(message).split())[:200] or type(message).__name__
