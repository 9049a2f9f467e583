"""Infer the length of a job's windows from its rows, and report a given length that does not fit."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from forecaster.time.infer_freq import infer_freq
from forecaster.time.notices import misfit_notice
from pipelines.settings.config import JobConfig


def with_frequency(job: JobConfig, rows: pl.DataFrame, on_notice: Callable[[str], None]) -> JobConfig:
    """Return the job, with the frequency that fits its rows if its settings give no ``windows.freq``.

    Args:
        job: settings.
        rows: observation frame.
        on_notice: called with a line about the inferred frequency, or about a given frequency that does not
            fit.

    Raises:
        DataError: no frequency is given, and no series has two rows at different times.
    """
    if "freq" in job.windows.model_fields_set:
        if line := misfit_notice(rows, job.windows):
            on_notice(line)
        return job
    freq, reason = infer_freq(rows)
    on_notice(f"frequency {freq}: {reason}")
    return job.with_settings({"windows.freq": freq})
