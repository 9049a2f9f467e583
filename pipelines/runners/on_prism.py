"""A job on Prism, Beam's embedded streaming engine."""

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
from pipelines.workers.failure import clear_told, told
from schemas.errors import EngineError, EngineLost


def run_on_prism(run: Run, on_progress: Callable[[], None]) -> None:
    """Runs a job to its end, or until it is asked to stop, on a Prism of its own.

    Args:
        run: the job's run.
        on_progress: called twice a second.

    Raises:
        StatecastError: the source, the output folder, a state or the engine is at fault.
    """
    output = run.settings.output
    clear_told(output)
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
            if prism.pid is None:
                raise EngineLost(f"Prism has died, killed or out of memory (log: {prism.log})") from error
            raise told(output, error) from error
        finally:
            worker.end_job(run.settings.job, abandon=True)
    if ended != PipelineState.DONE:
        raise EngineError(f"the job ended as {ended}: see {prism.log}")
