"""Pass a model to the workers of a Beam pipeline: as bytes, or as a reference to a file or to MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from forecaster.model import FILE_NAME, Forecaster
from pipelines.storage import Location, location
from pipelines.workers.step_settings import encode_covariates, forecaster_of
from schemas.errors import ModelError

# A URL with one of these prefixes refers to a model in MLflow; any other URL names a file or its folder.
_REFERENCES = ("models:/", "runs:/")


@dataclass(frozen=True)
class WeightsInside:
    """A forecaster whose weights are sent to the workers with the pipeline.

    Attributes:
        weights: the forecaster as `Forecaster.to_bytes` encodes it.
        covariates: its covariate tables as `encode_covariates` encodes them.
    """

    weights: bytes
    covariates: bytes

    def load(self) -> Forecaster:
        """Return the forecaster, decoded from its weights and covariate tables."""
        return forecaster_of(self.weights, self.covariates)


@dataclass(frozen=True)
class WeightsElsewhere:
    """A reference to a forecaster that each worker process loads once, from a file or from MLflow.

    Attributes:
        place: the file that `Forecaster.save` wrote, or its folder, as a path or as the URL of an object
            store; or a reference to a model that `Registry.load` accepts.
        tracking_uri: the MLflow store from which a reference is loaded.
        pipeline: id of the pipeline; another pipeline in this process loads the model again.
    """

    place: Path | str
    tracking_uri: str
    pipeline: str

    def load(self) -> Forecaster:
        """Return the forecaster; the first call in a process loads it, later calls reuse it.

        Raises:
            ModelError: there is no such model, or it cannot be read.
        """
        return _load(self)


Model: TypeAlias = WeightsInside | WeightsElsewhere
"""The model of a pipeline, sent to each worker, which calls ``load`` to get the forecaster."""


def model_of(model: Forecaster | Path | str, tracking_uri: str, pipeline: str) -> Model:
    """Return a `Model` that holds the weights of a forecaster, or the path or reference to load it from."""
    if isinstance(model, Forecaster):
        return WeightsInside(model.to_bytes(), encode_covariates(model))
    return WeightsElsewhere(model, tracking_uri, pipeline)


@lru_cache(maxsize=4)
def _load(model: WeightsElsewhere) -> Forecaster:
    place = model.place
    if isinstance(place, Path) or Path(place).name == FILE_NAME or _is_url(place):
        return _load_file(location(place))
    from forecaster import Registry  # imported here because MLflow takes seconds to import

    return Registry(model.tracking_uri).load(place)


def _is_url(place: str) -> bool:
    return "://" in place and not place.startswith(_REFERENCES)


def _load_file(place: Location) -> Forecaster:
    file = place if place.name == FILE_NAME else place / FILE_NAME
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}") from error
    try:
        return Forecaster.from_bytes(data)
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error
