"""What can go wrong, as one tree.

::

    StatecastError            anything Statecast refuses, with one line that says what to do    exit 1
    ├── ConfigError           a job file or an option that cannot be                            exit 2
    ├── DataError             a file, folder or column that cannot be read                      exit 3
    ├── ModelError            no such model, version, run or store; a state of other weights    exit 4
    │   └── VersionMismatch   a state met weights that did not make it                          exit 4
    ├── EngineError           a runner that is missing or failed                                exit 5
    │   └── EngineLost        a runner that died; the same command goes on with --resume        exit 5
    └── OutputError           a place that cannot be written                                    exit 6

The command line prints ``str(error)`` as its one line and leaves with ``exit_code``; a library
user catches ``StatecastError``.
"""

from __future__ import annotations

from typing import ClassVar

from schemas.masking import masked


class StatecastError(Exception):
    """The root of every error that Statecast raises on purpose; ``str`` of it is one line without secrets."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(masked(part) if isinstance(part, str) else part for part in args))


class ConfigError(StatecastError):
    """A job file or an option holds a value that cannot be."""

    exit_code: ClassVar[int] = 2


class DataError(StatecastError):
    """A file, folder or column cannot be read as series."""

    exit_code: ClassVar[int] = 3


class ModelError(StatecastError):
    """A model, a version, a run or the store that should hold it cannot be had."""

    exit_code: ClassVar[int] = 4


class VersionMismatch(ModelError):
    """A state met weights other than those that made it."""


class EngineError(StatecastError):
    """A runner is missing, did not start or failed."""

    exit_code: ClassVar[int] = 5


class EngineLost(EngineError):
    """A runner, or a worker of one, died; a stream goes on from its snapshots when it is resumed."""


class OutputError(StatecastError):
    """A folder or file cannot be written."""

    exit_code: ClassVar[int] = 6
