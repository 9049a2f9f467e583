"""Define the protocol of a registry alias that a stream watches."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from forecaster.model import Forecaster


class AliasedVersion(NamedTuple):
    """A model version that an alias names: its registry name, such as ``weather/4``, and its version text."""

    model: str
    version: str


class Alias(Protocol):
    """An alias of the model registry; its text form is for example ``weather@champion``."""

    def current(self) -> AliasedVersion:
        """Return the model version that the alias names now.

        Raises:
            ModelError: the registry cannot be read.
        """

    def load(self, model: str) -> Forecaster:
        """Load a model version, and give it the covariate tables of the job.

        Raises:
            StatecastError: the version cannot be loaded.
        """

    def with_tables(self, forecaster: Forecaster) -> Forecaster:
        """Return a loaded model version with the covariate tables of the job in place of its own.

        Raises:
            StatecastError: a table cannot be read, or does not fit the version.
        """

    def refuse(self, model: str, reason: str) -> None:
        """Record in the registry, at a model version, why the stream refused the version.

        Raises:
            ModelError: the registry cannot be written.
        """
