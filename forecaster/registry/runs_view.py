"""How MLflow's page shows an experiment's runs: a view with columns, an order of the runs, and charts.

MLflow keeps a shared view as JSON in a tag of the experiment. The source of MLflow's pages defines
its fields as ``ExperimentPageUIState``, ``ExperimentPageSearchFacetsState`` and ``RunsChartsCardConfig``.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from forecaster.registry.metric_names import SKILL, VALIDATION_SKILL

_KEY = "statecast"
_TAG = f"mlflow.sharedViewState.{_KEY}"
_COLUMNS = (
    "attributes.`Dataset`",
    "attributes.`Models`",
    f"metrics.`{SKILL}`",
    "metrics.`backtest/skill_vs_seasonal_naive`",
    "metrics.`backtest/mase_h1`",
    "metrics.`backtest/mase_h24`",
    "metrics.`backtest/wql`",
    "metrics.`backtest/coverage_90`",
    "metrics.`backtest/width_90`",
    "metrics.`sweep/skill_validation`",
    "metrics.`time/train_s`",
    "params.`network.cell`",
    "params.`network.hidden`",
    "params.`network.horizon`",
    "tags.`statecast.job`",
)
_WITH_BASELINES = ("mase_by_horizon", "mase_by_horizon_persistence", "mase_by_horizon_seasonal_naive")
_LINES: dict[str, tuple[str, ...]] = {
    "MASE by horizon, beside the baselines": tuple(f"backtest/{name}" for name in _WITH_BASELINES),
    "Coverage by horizon": ("backtest/coverage_by_horizon",),
    "Loss by epoch": ("epoch/loss_train", "epoch/loss_validation"),
    "Skill on the validation windows by epoch": (VALIDATION_SKILL,),
    "Loss by epoch of the refit": ("epoch/loss_refit",),
    "Norm of the gradient by lag": ("gradient/norm_by_lag",),
    "Skill by trial, and the best so far": ("sweep/skill_by_trial", "sweep/best_by_trial"),
    "MASE by horizon of stored forecasts, beside the baselines": tuple(f"test/{n}" for n in _WITH_BASELINES),
}
"""Title of a chart -> the metrics that it draws as lines."""
_BARS = (
    SKILL,
    "backtest/skill_vs_seasonal_naive",
    "backtest/coverage_90",
    "backtest/width_90",
    "sweep/skill_validation",
    "test/skill_vs_persistence",
    "time/train_s",
)
VARIED = (
    "network.hidden",
    "network.layers",
    "network.halflife",
    "training.learning_rate",
    "training.weight_decay",
    "training.dropout",
    "training.segment",
)
"""The parameters that the trials of a sweep vary."""
_SECTIONS = ("backtest", "epoch", "gradient", "sweep", "test", "time", "Model metrics", "System metrics")


def runs_page(address: str, experiment_id: str) -> str:
    """Return the URL of the page of an experiment's training runs, on the server at ``address``."""
    # Without `workflowType`, MLflow would show a menu for language models beside the runs.
    query = f"workflowType=machine_learning&viewStateShareKey={_KEY}"
    return f"{address.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def store_view(client: mlflow.MlflowClient, experiment_id: str) -> None:
    """Write the result of `view` to the tag that MLflow's page of the experiment reads, if it differs."""
    value = _packed(view())
    if client.get_experiment(experiment_id).tags.get(_TAG) == value:
        return
    try:
        client.set_experiment_tag(experiment_id, _TAG, value)
    except MlflowException:
        # If two processes add the tag at the same time, the database of MLflow refuses one of them.
        if client.get_experiment(experiment_id).tags.get(_TAG) != value:
            raise


def view() -> dict[str, Any]:
    """Return the view in MLflow's format: columns, charts, and the runs sorted by skill, highest first."""
    charts: list[dict[str, Any]] = []
    for title, metrics in _LINES.items():
        charts.append(_line(metrics[0], title, metrics))
        # MLflow would also draw one chart for each further metric: mark these charts as deleted.
        charts += [_line(metric, "", (metric,)) | {"deleted": True} for metric in metrics[1:]]
    charts += [_card("BAR", metric) for metric in _BARS]
    charts.append(
        _card("PARALLEL", "sweep/trials")
        | {"displayName": "Settings and skill of the trials", "showAllRuns": True}
        | {"selectedParams": list(VARIED), "selectedMetrics": ["sweep/skill_validation"]}
    )
    return {
        "orderByKey": f"metrics.`{SKILL}`",
        "orderByAsc": False,
        "selectedColumns": list(_COLUMNS),
        "columnOrder": list(_COLUMNS),
        "compareRunCharts": sorted(charts, key=lambda chart: bool(chart["deleted"])),
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": True, "isGenerated": False}
            for name in _SECTIONS
        ],
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
    }


def _line(metric: str, title: str, metrics: tuple[str, ...]) -> dict[str, Any]:
    """Return a chart in which each metric is a line over its steps, such as epochs or horizons."""
    own = {"selectedMetricKeys": list(metrics), "xAxisKey": "step", "useGlobalXaxisKey": False}
    return _card("LINE", metric) | own | ({"displayName": title} if title else {})


def _card(kind: str, metric: str) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"{kind}-{metric}",
        "metricKey": metric,
        "metricSectionId": metric.partition("/")[0],
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": False,
    }


def _packed(state: dict[str, Any]) -> str:
    """Return a view in the compressed form in which MLflow's pages store it in a tag."""
    packed = zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 9)
    return f"deflate;{base64.b64encode(packed).decode()}"
