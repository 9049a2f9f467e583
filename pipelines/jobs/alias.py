"""An alias of the model registry, as a stream sees it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from forecaster.model import Forecaster


class AliasedVersion(NamedTuple):
    """The version that an alias names: its name in the registry, such as ``weather/4``, and its version."""

    model: str
    version: str


class Alias(Protocol):
    """An alias of the model registry; as text, it is for example ``weather@champion``."""

    def current(self) -> AliasedVersion:
        """Return the version that the alias names now.

        Raises:
            ModelError: the registry cannot be read.
        """

    def load(self, model: str) -> Forecaster:
        """Load a version, with the covariate tables of the job.

        Raises:
            StatecastError: the version cannot be loaded.
        """

    def with_tables(self, forecaster: Forecaster) -> Forecaster:
        """Return a version with the covariate tables of the job.

        Raises:
            StatecastError: a table cannot be read, or does not fit the version.
        """

    def refuse(self, model: str, reason: str) -> None:
        """Record at a version in the registry why the stream refused it.

        Raises:
            ModelError: the registry cannot be written.
        """
