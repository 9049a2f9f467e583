"""Log the evaluation of stored forecasts: one MLflow run for each model version."""

from __future__ import annotations

from pipelines.jobs.backtest_log import log_comparison
from pipelines.jobs.evaluate import FolderEvaluation
from pipelines.jobs.registry import open_registry
from pipelines.settings.config import JobConfig


def log_evaluations(job: JobConfig, evaluation: FolderEvaluation) -> dict[str, str]:
    """Log the scores of each model version as its own MLflow run, and return the run ids by version.

    A run has the metrics of the group ``test``, the tables of scores by horizon and by series, and the
    observations as its data set. It is linked to the registered version of the model, if the store has it.

    Raises:
        ModelError: the store reports an error.
    """
    registry, runs = open_registry(job.mlflow), {}
    for label, comparison in evaluation.comparisons.items():
        version = evaluation.versions[label]
        issued = comparison.errors[label]["issued_at"]
        params = {
            "evaluate.issued_from": issued.min(),
            "evaluate.issued_to": issued.max(),
            "evaluate.unit": evaluation.unit,
            "windows.freq": evaluation.freq,
        }
        tags = {"statecast.job": "evaluation of forecasts", "model_version": version}
        with registry.start_run(f"evaluation of {version}", params, tags, model_version=version) as run:
            run.log_dataset(evaluation.observations, job.data.paths, "evaluation")
            log_comparison(run, comparison, "test", evaluation.rows)
        runs[version] = run.run_id
    return runs
