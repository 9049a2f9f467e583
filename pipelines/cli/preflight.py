"""What can be refused at once, before torch, Beam and MLflow are loaded: model, store, engine.

Imports none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forecaster.registry.store import Reference, Store
from pipelines.runners.java import find_java, job_server
from pipelines.runners.prism import MISSING, find_prism
from pipelines.runners.prism_binary import beam_version
from schemas.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from pipelines.jobs.job import Runner


def check_model(ref: str, tracking_uri: str) -> None:
    """Checks that ``ref`` can name a model, and that there is a store to look for it.

    Raises:
        ModelError: it cannot, or there is none.
    """
    if Reference.parse(ref).folder is None:
        check_store(tracking_uri)
        Store.parse(tracking_uri).check_exists()


def check_prism() -> None:
    """Checks that the streaming engine is installed.

    Raises:
        EngineError: it is not.
    """
    if find_prism() is None:
        raise EngineError(MISSING)


def engine_of(runner: str, beam_options: tuple[str, ...] = ()) -> tuple[Runner, str]:
    """The engine that a stream runs on, and why, in a few words.

    Args:
        runner: what was asked for; ``auto`` takes what is there.
        beam_options: options for Beam's runner.

    Raises:
        EngineError: what was asked for is not installed.
        ConfigError: there is no Beam in process to take options.
    """
    if runner == "flink":
        find_java()
        return "flink", f"on Flink, through {job_server()[1]}"
    if runner == "prism" or (runner == "auto" and find_prism() is not None):
        check_prism()
        return "prism", f"on Prism {beam_version()}"
    if beam_options:
        raise ConfigError(f"{beam_options[0]}: there is no Beam in process: name --runner prism or flink")
    return "in-process", "in process" + ("" if runner == "in-process" else ": Prism is not installed")


def check_store(tracking_uri: str) -> None:
    """Checks that an MLflow store can be used, or made.

    Raises:
        ModelError: it cannot.
    """
    Store.parse(tracking_uri).check()
