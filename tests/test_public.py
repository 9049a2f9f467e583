"""Check the public names of the packages, and that an import of a package loads no heavy library."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

PUBLIC = {
    "schemas": """
        ConfigError DataError EngineError Forecast LateRow ModelError Observation OutputError QuarantinedRow
        Score StatecastError VersionMismatch validate
    """,
    "forecaster": """
        Batch Counts Forecaster Forecasts NetworkConfig OnlineConfig Output Registry Shard State Trained
        TrainingConfig WindowConfig Windows advance aggregate apply calibration errors forecast persistence
        rewarm score seasonal_naive series_scale train
    """,
    "pipelines": """
        BackfillJob Columns FolderSource ForecastFleet Input JobConfig JobNumbers Outcome PrismServer ReadLog
        ReplaySource StreamJob Validate WriteForecasts WriteQuarantine load_config prism_options read_batches
        read_forecasts read_late read_quarantine read_replaced run_backfill run_stream
    """,
    "pipelines.beam": "ForecastFleet ReadLog Validate WriteForecasts WriteQuarantine",
}
HEAVY = ("torch", "mlflow", "apache_beam", "polars", "pandera", "matplotlib", "pyarrow", "numpy")


@pytest.mark.parametrize("package", PUBLIC)
def test_a_package_exports_exactly_its_listed_public_names(package: str) -> None:
    assert importlib.import_module(package).__all__ == PUBLIC[package].split()


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_is_callable_and_documented(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        thing = getattr(module, name)
        assert callable(thing), name
        assert (inspect.getdoc(thing) or "").strip(), name
        if inspect.isfunction(thing) and "Raises:" not in (thing.__doc__ or ""):
            assert len((thing.__doc__ or "").split()) >= 5, name


@pytest.mark.parametrize("package", PUBLIC)
def test_no_public_name_equals_the_name_of_a_module(package: str) -> None:
    module = importlib.import_module(package)
    beside = {found.name for found in pkgutil.iter_modules(module.__path__)}
    # Importing a module sets an attribute of its package. The attribute would replace a public object of the
    # same name.
    assert not beside & set(module.__all__)


@pytest.mark.parametrize("package", PUBLIC)
def test_unknown_names_in_public_packages_raise_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = importlib.import_module(package).nothing


@pytest.mark.parametrize("package", [*PUBLIC, "pipelines.cli", "pipelines.cli.app"])
def test_importing_a_package_loads_no_heavy_library(package: str) -> None:
    code = f"import sys, {package}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    finished = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert finished.stdout.split() == []
