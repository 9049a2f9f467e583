"""Tests of the settings of a job: their dotted names, and the modules that are imported to read them."""

from __future__ import annotations

import subprocess
import sys

from forecaster.config import NetworkConfig
from pipelines.settings.config import JobConfig


def test_settings_are_listed_by_dotted_name() -> None:
    flat = JobConfig(network=NetworkConfig(hidden=8)).flat()
    assert flat["network.hidden"] == 8
    assert "data.start" not in flat


def test_importing_the_job_file_module_imports_no_heavy_package() -> None:
    heavy = {"polars", "pandera", "torch", "apache_beam"}
    code = f"import sys, pipelines.settings.job_file; print(*{heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
