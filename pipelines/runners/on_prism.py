"""Run a job on Prism, Beam's streaming engine for one machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from pipelines.runners.base import PROGRESS_S, Run
from pipelines.runners.engine import log_file
from pipelines.runners.job_pipeline import build_pipeline
from pipelines.runners.prism import PrismServer, prism_options
from pipelines.workers import worker
from pipelines.workers.failure import clear_worker_errors, error_to_report
from schemas.errors import EngineError


def run_on_prism(run: Run, on_progress: Callable[[], None]) -> None:
    """Start a Prism process and run a job on it until its source ends or its stop file appears.

    Args:
        run: the run to execute.
        on_progress: called twice a second.

    Raises:
        StatecastError: the source, the output folder, a state or the engine is at fault.
    """
    output = run.settings.output
    clear_worker_errors(output)
    with PrismServer(log_file(run.logs, "prism.log")) as prism:
        pipeline = beam.Pipeline(options=PipelineOptions([*prism_options(prism.endpoint), *run.beam_options]))
        build_pipeline(pipeline, run)
        try:
            result = pipeline.run()
            while not PipelineState.is_terminal(ended := result.state):
                time.sleep(PROGRESS_S)
                on_progress()
            result.wait_until_finish()
            worker.end_job(run.settings.job)
        except Exception as error:
            raise prism.loss_behind(error) or error_to_report(output, error) from error
        finally:
            worker.end_job(run.settings.job, abandon=True)
    if ended != PipelineState.DONE:
        raise EngineError(f"the job ended as {ended}: see {prism.log}")
