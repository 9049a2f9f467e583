"""The first weights of a training: the weights of a model, or random weights with a fitted linear part."""

from __future__ import annotations

import torch

from forecaster.components.network.network import Network
from forecaster.config import NetworkConfig, TrainingConfig
from forecaster.covariates.encoding import Tables
from forecaster.covariates.lookup import Covariates
from forecaster.model import Forecaster
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training.batches import Fleet
from forecaster.training.cold_start import fit_static_ridge
from forecaster.training.fit_ridge import fit_linear, typical_change
from schemas.errors import ConfigError


def first_weights(fleet: Fleet, training: TrainingConfig, start: Forecaster | None) -> tuple[Network, Fleet]:
    """Return the network that a training starts from, and a copy of ``fleet`` with the network's linear part.

    Args:
        fleet: the fleet to learn from.
        training: settings, with the seed of the random numbers.
        start: the model whose weights and linear part are copied; None draws random weights and fits the
            linear part to ``fleet``.
    """
    features = fleet.covariates.features
    known, static = features.known_count, features.static_count
    rng = torch.Generator().manual_seed(training.seed)
    module = Network(fleet.network, training.dropout, known, static, features.observed, rng)
    if start is not None:
        module.load_state_dict(start.network.state_dict())
        ridge = module.ridge.numpy() if fleet.network.linear else None
        return module, fleet.with_linear_part(ridge, float(module.prior))
    if features.static_count:
        module.of_static.copy_(torch.from_numpy(fit_static_ridge(fleet)))
    prior = typical_change(fleet)
    module.prior.fill_(prior)
    if fleet.network.linear:
        module.ridge.copy_(torch.from_numpy(fit_linear(fleet.with_linear_part(None, prior))))
    return module, fleet.with_linear_part(module.ridge.numpy() if fleet.network.linear else None, prior)


def covariates_for(
    start: Forecaster | None,
    tables: Tables,
    windows: Windows,
    windows_config: WindowConfig,
    network: NetworkConfig,
    held_from: int,
) -> Covariates:
    """Return the covariates to train with, encoded as in the model ``start``, or anew if ``start`` is None.

    A new encoding is fitted to the windows before row ``held_from``, as the weights are.
    """
    freq = windows_config.frequency
    if start is None:
        return Covariates.fitted(tables, windows, freq, network.decoder, held_from)
    return Covariates.of(start.covariates.features, freq, tables)


def check_start(start: Forecaster | None, network: NetworkConfig, windows: WindowConfig) -> None:
    """Check that the settings of the model ``start``, if given, are equal to ``network`` and ``windows``.

    Raises:
        ConfigError: the settings differ from the settings of ``start``.
    """
    if start is not None and (network, windows) != (start.network_config, start.window_config):
        raise ConfigError(
            f"training starts from {start.version}, which has other settings of network or windows: use its "
            "settings, or start without it"
        )
