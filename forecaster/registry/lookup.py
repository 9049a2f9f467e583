"""Find registered versions, runs, and the models that runs logged, in the stores of a connection."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException

from forecaster.registry.connection import NO_SUCH, Connection
from forecaster.registry.references import Reference
from forecaster.registry.versions import VERSION_TAG, Version, version_of
from schemas.errors import ModelError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as RunEntity
    from mlflow.entities.model_registry import ModelVersion


def is_registered(connection: Connection, reference: Reference) -> bool:
    """Return True if the store has the run, or any version of the model, that the reference names.

    Return False if the reference can only mean a folder, or the store does not exist.
    """
    if reference.is_folder or not (connection.runs.exists() and connection.models.exists()):
        return False
    with connection.errors():
        client = connection.client()
        if reference.run_id is not None:
            return _run(client, reference.run_id) is not None
        return bool(client.search_model_versions(f"name = '{reference.name}'", 1))


def find_version(connection: Connection, reference: Reference) -> Version:
    """Return the version that a reference selects by a model's name and a version number or an alias.

    Raises:
        ModelError: the model, the version or the alias does not exist.
    """
    assert reference.name is not None
    found = versions_of(connection, reference.name)
    for version in found:
        if reference.version == version.number or reference.alias in version.aliases:
            return version
    numbers = ", ".join(str(version.number) for version in found[:10])
    aliases = ", ".join(sorted(alias for version in found for alias in version.aliases)) or "none"
    raise ModelError(
        f"{reference.text} does not exist: {reference.name} has versions {numbers} and aliases "
        f"{aliases} (statecast promote sets an alias)"
    )


def versions_of(connection: Connection, name: str) -> list[Version]:
    """Return the versions registered under ``name``, newest first.

    Raises:
        ModelError: no version has that name.
    """
    if found := all_versions(connection, name):
        return found
    names = [model.name for model in connection.existing().search_registered_models(max_results=1000)]
    near = [other for other in get_close_matches(name, names, n=3, cutoff=0.5) if other != name]
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"it holds {', '.join(sorted(names)[:10]) or 'none yet'} (statecast train makes one)"
    )
    raise ModelError(f"no model {name!r} is registered in {connection.models}: {hint}")


def all_versions(connection: Connection, name: str) -> list[Version]:
    """Return the versions registered under ``name``, newest first; [] if there is no version."""
    client = connection.existing()
    found = client.search_model_versions(f"name = '{name}'", 1000, ["version_number DESC"])
    if not found:
        return []
    # Read the aliases separately: in database stores, the results of a search have no aliases.
    aliases = client.get_registered_model(name).aliases
    return [version_of(version, aliases) for version in found]


def find_weights(connection: Connection, model_version: str) -> ModelVersion | None:
    """Return MLflow's record of one registered version with the given weights; None if no version has them.

    Args:
        connection: the stores.
        model_version: `Forecaster.version`, which identifies the weights.
    """
    if not (connection.runs.exists() and connection.models.exists()):
        return None
    with connection.errors():
        tag = f"tags.`{VERSION_TAG}` = '{model_version}'"
        found = connection.client().search_model_versions(tag, max_results=1)
    return found[0] if found else None


def find_run(connection: Connection, run_id: str) -> RunEntity:
    """Return MLflow's record of the run ``run_id``.

    Raises:
        ModelError: the run does not exist.
    """
    run = _run(connection.existing(), run_id)
    if run is None:
        raise ModelError(f"no run {run_id} is in {connection.runs}: statecast ui shows its runs")
    return run


def _run(client: MlflowClient, run_id: str) -> RunEntity | None:
    """Return MLflow's record of the run ``run_id``; None if the run does not exist."""
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in NO_SUCH:
            return None
        raise


def model_of_run(connection: Connection, run_id: str) -> str:
    """Return the ``models:/`` address of the last model that a run logged.

    Raises:
        ModelError: the run does not exist, or logged no model.
    """
    run = find_run(connection, run_id)
    outputs = run.outputs.model_outputs if run.outputs else []
    if not outputs:
        raise ModelError(
            f"run {run_id} ({run.info.run_name}, {run.info.status}) logged no model: choose another "
            "run, or train again"
        )
    return f"models:/{outputs[-1].model_id}"
