"""Read the alias of a registered model that a stream follows, and load the version that it names."""

from __future__ import annotations

from typing import Final, NamedTuple

from forecaster.model import Forecaster
from forecaster.registry.references import Reference
from forecaster.registry.registry import Registry
from forecaster.shards.compatibility import check_can_replace
from pipelines.jobs.registry import open_registry
from pipelines.settings.config import JobConfig
from pipelines.sources.files.covariates import with_tables
from schemas.errors import ConfigError, ModelError

REFUSED_TAG: Final = "statecast.refused_by_stream"
"""Tag of a model version that a stream refused; its value is the reason."""


class AliasedVersion(NamedTuple):
    """The model version that an alias names.

    Attributes:
        model: name and number of the version in the registry, such as ``weather/4``.
        version: `Forecaster.version`, which identifies the weights.
    """

    model: str
    version: str


class RegisteredAlias:
    """An alias of a registered model; as text, it is for example ``weather@champion``.

    Only the first call of a method opens the registry, so that a stream can start without a tracking server.

    Args:
        job: the settings of the stream, with the registry and the tables of covariates.
        name: name of the registered model.
        alias: the alias.
    """

    def __init__(self, job: JobConfig, name: str, alias: str) -> None:
        self._job, self._name, self._alias = job, name, alias
        self._opened: Registry | None = None

    def __str__(self) -> str:
        return f"{self._name}@{self._alias}"

    def current(self) -> AliasedVersion:
        """Return the model version that the alias names now.

        Raises:
            ModelError: the registry cannot be read, or no version has the alias.
        """
        version = self._registry.aliases.pointed_to(self._name, self._alias)
        if version is None:
            raise ModelError(
                f"no version has the alias: set it with statecast promote {self._name}/1 "
                f"--alias {self._alias}"
            )
        return AliasedVersion(str(version), version.model_version)

    def load(self, model: str) -> Forecaster:
        """Load a model version, and give it the covariate tables of the job.

        Raises:
            StatecastError: the version cannot be loaded.
        """
        return self.with_tables(self._registry.load(model))

    def with_tables(self, forecaster: Forecaster) -> Forecaster:
        """Return a model version with the job's covariate tables; with its own tables if the job names none.

        Raises:
            ConfigError, DataError: see `pipelines.sources.files.covariates.with_tables`.
        """
        return with_tables(forecaster, self._job.covariates)

    def refuse(self, model: str, reason: str) -> None:
        """Add a tag to a model version that the stream refused; the tag contains the reason.

        Raises:
            ModelError: the registry cannot be written.
        """
        self._registry.aliases.tag(model, REFUSED_TAG, reason)

    @property
    def _registry(self) -> Registry:
        if self._opened is None:
            self._opened = open_registry(self._job.mlflow)
        return self._opened


def shadow_of(job: JobConfig, model: str, forecaster: Forecaster) -> Forecaster | None:
    """Return the model version that the alias in ``stream.shadow`` names; None without this setting.

    Args:
        job: the settings of the stream.
        model: reference of its model.
        forecaster: the version that the stream begins with.

    Raises:
        ConfigError: the model is not a registered one.
        StatecastError: the version cannot be loaded, or does not fit the stream.
    """
    if not job.stream.shadow:
        return None
    name = Reference.parse(model).name
    if name is None:
        raise ConfigError(
            f"stream.shadow is {job.stream.shadow!r}, but {model} is not a registered model: name one, "
            "such as weather"
        )
    alias = RegisteredAlias(job, name, job.stream.shadow)
    aliased = alias.current()
    shadow = alias.load(aliased.model)
    try:
        check_can_replace(shadow, forecaster)
    except ModelError as error:
        raise ModelError(f"{alias} is {aliased.model}, which does not fit the stream: {error}") from error
    return shadow


def alias_of(job: JobConfig, model: str) -> RegisteredAlias | None:
    """Return the registry alias that a stream watches: the alias it follows, or the alias of its model.

    Args:
        job: the settings of the stream.
        model: reference of its model, such as ``weather``, ``weather@champion`` or a folder.

    Returns:
        None if the stream follows no alias, and the model is a folder, a run or a version by its number.

    Raises:
        ConfigError: the stream is to follow an alias, but its model is not a registered one.
    """
    follow, reference = job.stream.follow, Reference.parse(model)
    if reference.name is not None and (follow or reference.folder is None):
        alias = follow or reference.alias
        return None if alias is None else RegisteredAlias(job, reference.name, alias)
    if follow:
        raise ConfigError(
            f"stream.follow is {follow!r}, but {model} is not a registered model: name one, such as weather"
        )
    return None
