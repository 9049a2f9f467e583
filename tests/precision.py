"""Run the components of a model in float64, as a reference for their float32 arrays."""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from forecaster import components
from forecaster.components import anchors, anomaly
from forecaster.components.base import Field
from forecaster.model import Forecaster


@contextmanager
def double_precision() -> Iterator[None]:
    """Replace NumPy's float32 by float64 in the code of all components, and in the fields of states."""
    wide = ModuleType("numpy")
    wide.__dict__.update({name: getattr(np, name) for name in dir(np)} | {"float32": np.float64})
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(components.__path__, f"{components.__name__}.")
    ]
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            if hasattr(module, "np"):
                patch.setattr(module, "np", wide)
            if hasattr(module, "Field"):
                patch.setattr(module, "Field", wide_field)
        patch.setattr(anomaly, "_FIELDS", {name: wide_field(*f) for name, f in anomaly._FIELDS.items()})
        anchors.by_horizon.cache_clear()
        yield
    anchors.by_horizon.cache_clear()


def wide_field(dtype: str, shape: tuple[int, ...] = ()) -> Field:
    """Return a `Field` with the given dtype and shape, but with float64 in place of float32."""
    return Field("float64" if dtype == "float32" else dtype, shape)


def in_double_precision(model: Forecaster) -> Forecaster:
    """Return a copy of the model with float64 weights, usable only inside a block of `double_precision`."""
    return replace(model, network=copy.deepcopy(model.network).double())
