"""A forecaster: the weights, the settings that they need, and the version that identifies both."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from forecaster import durable
from forecaster.components.base import Component
from forecaster.components.chain import chain
from forecaster.components.experts.base import Expert
from forecaster.components.experts.stacking import Stacking
from forecaster.components.network.network import Network
from forecaster.components.profile import Profile
from forecaster.config import NetworkConfig, OnlineConfig
from forecaster.covariates.encoding import Features
from forecaster.covariates.lookup import Covariates
from forecaster.state import State
from forecaster.time.window_config import WindowConfig
from forecaster.weights import config_of_blob, read, to_blob, version_of, weights_of_blob
from schemas.errors import ModelError

FILE_NAME = "forecaster.safetensors"
FORMAT = 3
"""The format version of saved settings and weights; raise it when their meaning changes."""


@dataclass(frozen=True)
class Forecaster:
    """A network with the settings and covariates that it forecasts with.

    Attributes:
        network_config: the shape of the network.
        window_config: the windows that it was trained on.
        network: the network, in evaluation mode.
        online_config: the settings of the experts, intervals and alarms.
        covariates: the features, which belong to the weights, and the tables, which belong to a job: the
            tables are not saved with the weights and do not change the version.
        profile: the distribution of the training data, to measure drift with. It is saved with the weights
            and does not change the version. Empty for a model of an earlier release, or without training.
        version: the cell and a hash of settings and weights, such as ``lstm-3f2a9c1b7d20``: the
            ``model_version`` of its forecasts and states. Equal weights have equal versions.
        components: the components of its states, in the order in which they step.
        members: the names of the combined members, the network first; empty if nothing is combined.
    """

    network_config: NetworkConfig
    window_config: WindowConfig
    network: Network
    online_config: OnlineConfig = field(default_factory=OnlineConfig)
    covariates: Covariates = field(default_factory=Covariates, compare=False)
    profile: Profile = field(default_factory=Profile, compare=False)
    version: str = field(init=False)
    components: tuple[Component, ...] = field(init=False)
    members: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)
        version = version_of(self.network_config.cell, self._config_json(), self.network)
        object.__setattr__(self, "version", version)
        components = chain(self.network, self.window_config, self.online_config)
        object.__setattr__(self, "components", components)
        combined = any(isinstance(part, Stacking) for part in components)
        experts = tuple(part.name for part in components if isinstance(part, Expert))
        object.__setattr__(self, "members", (self.network.name, *experts) if combined else ())

    def _config_json(self) -> str:
        network = self.network_config
        parts: dict[str, object] = {
            "format": FORMAT,
            # Omit ``decoder``, a newer setting, if it is unused: it would change the version of older models.
            "network": network.model_dump(exclude=None if network.decoder else {"decoder"}),
            # omit ``repair``, a setting of the job, which must not change the version of the model
            "windows": self.window_config.model_dump(exclude={"repair"}),
            "online": self.online_config.model_dump(),
        }
        if not self.covariates.features.is_empty:
            features = self.covariates.features
            parts["covariates"] = features.model_dump(exclude=None if features.observed else {"observed"})
        return json.dumps(parts, indent=2, sort_keys=True)

    @staticmethod
    def untrained(
        network: NetworkConfig,
        windows: WindowConfig,
        seed: int = 0,
        online: OnlineConfig | None = None,
        covariates: Covariates | None = None,
    ) -> Forecaster:
        """Return a forecaster with random weights, for tests and benchmarks."""
        covariates = covariates or Covariates()
        module = _network(network, covariates.features, torch.Generator().manual_seed(seed))
        return Forecaster(network, windows, module, online or OnlineConfig(), covariates)

    def with_covariates(self, covariates: Covariates) -> Forecaster:
        """Return this forecaster with other covariate tables.

        Raises:
            ModelError: the tables are encoded with other features than the forecaster was trained with.
        """
        if covariates.features != self.covariates.features:
            raise ModelError(
                f"the covariates are not encoded as in the training of {self.version}: encode the tables "
                "with the features of that model (forecaster.covariates.features)"
            )
        return replace(self, covariates=covariates)

    def initial_state(self) -> State:
        """Return the state of a fleet without series."""
        return self.new_series_state((), 0)

    def new_series_state(self, series_ids: tuple[str, ...], start: int) -> State:
        """Return the state of new series, which have no value yet; their first window is ``start``."""
        series = len(series_ids)
        return State(
            model_version=self.version,
            freq=self.window_config.frequency,
            series_ids=series_ids,
            clock=np.full(series, start - 1, np.int64),
            silent=np.zeros(series, np.int64),
            parts={part.name: part.init(series) for part in self.components},
        )

    def to_bytes(self) -> bytes:
        """Return weights, settings and profile as one safetensors blob, for files and for workers."""
        return to_blob(self._config_json(), self.network, self.profile.to_tensors())

    @staticmethod
    def from_bytes(data: bytes) -> Forecaster:
        """Read the forecaster from a blob that `to_bytes` returned.

        Raises:
            ModelError: ``data`` is not a forecaster, or has another format.
        """
        try:
            parts = config_of_blob(data)
            if (found := parts.get("format", 1)) != FORMAT:
                raise ValueError(
                    f"the model has format {found}, and this version reads {FORMAT}: train the model anew "
                    "(statecast train)"
                )
            network = NetworkConfig.model_validate(parts["network"])
            windows = WindowConfig.model_validate(parts["windows"])
            online = OnlineConfig.model_validate(parts["online"])
            features = Features.model_validate(parts.get("covariates", {}))
            module = _network(network, features)
            tensors = weights_of_blob(data)
            profile = Profile.from_tensors(tensors)
            module.load_state_dict(tensors)
        except (ValueError, KeyError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"no forecaster can be built from the data: {reason}") from error
        covariates = Covariates.of(features, windows.frequency)
        return Forecaster(network, windows, module, online, covariates, profile)

    def save(self, folder: Path) -> None:
        """Write ``forecaster.safetensors`` into ``folder``, which is created if necessary.

        At every moment, also after a loss of power, the file is either the earlier one or the new one.

        Raises:
            OSError: the file cannot be written.
        """
        durable.write_bytes(folder / FILE_NAME, self.to_bytes())

    @staticmethod
    def load(folder: Path) -> Forecaster:
        """Read the forecaster that `save` wrote.

        Raises:
            ModelError: ``folder`` does not hold a forecaster.
        """
        return read(folder / FILE_NAME, Forecaster.from_bytes)


def _network(config: NetworkConfig, features: Features, rng: torch.Generator | None = None) -> Network:
    known, static = features.known_count, features.static_count
    return Network(config, known=known, static=static, past=features.observed, rng=rng)
