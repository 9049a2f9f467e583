"""Convert a network's weights and settings to one safetensors blob and back; name versions by their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save

from schemas.errors import ModelError

_CONFIG = "config"

Model = TypeVar("Model")


def version_of(cell: str, config: str, network: torch.nn.Module) -> str:
    """Return the version: the cell type and a hash of settings and weights, such as ``lstm-3f2a9c1b7d20``."""
    digest = hashlib.sha256(config.encode())
    for name, weight in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.contiguous().numpy().tobytes())
    return f"{cell}-{digest.hexdigest()[:12]}"


def to_blob(config: str, network: torch.nn.Module, more: Mapping[str, torch.Tensor] | None = None) -> bytes:
    """Return the settings (JSON), the weights and further tensors, ``more``, as one safetensors blob."""
    weights = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    return save(weights | dict(more or {}), {_CONFIG: config})


def config_of_blob(data: bytes) -> dict[str, Any]:
    """Read the settings from a blob that `to_blob` returned.

    Raises:
        ValueError, KeyError: ``data`` is not such a blob.
    """
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(json.loads(header["__metadata__"][_CONFIG]))


def weights_of_blob(data: bytes) -> dict[str, torch.Tensor]:
    """Return all tensors of a blob that `to_blob` made: the network's weights and any further tensors.

    Raises:
        SafetensorError: ``data`` is not such a blob.
    """
    return load(data)


def read(path: Path, unpacked: Callable[[bytes], Model]) -> Model:
    """Return the model that ``unpacked`` makes from the bytes of the file ``path``.

    Args:
        path: the file.
        unpacked: the function that turns the file's bytes into the model.

    Raises:
        ModelError: the file cannot be read, or is not a model; the message names the file.
    """
    try:
        return unpacked(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
