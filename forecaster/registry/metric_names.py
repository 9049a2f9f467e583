"""The names of metrics in MLflow, in groups: MLflow's pages draw one section of charts for each group.

=============  ====================================================================  ====================
group          metrics                                                               step
=============  ====================================================================  ====================
``epoch``      losses and skill of training                                          epoch
``backtest``   scores on the last windows, which the network did not learn from      horizon, or 0
``test``       scores of stored forecasts, and of a rolling evaluation               horizon, or 0
``gradient``   how far back the network learns from                                  lag
``sweep``      skill of the trials                                                   trial, or 0
``time``       seconds                                                               epoch, or 0
``system``     use of processor, memory, disk and network                            sample
=============  ====================================================================  ====================

A number with one value for the whole run is logged at step 0. Each point of a curve is logged at its own
step.
"""

from __future__ import annotations

SKILL = "backtest/skill_vs_persistence"
"""The metric by which runs are ranked."""

VALIDATION_SKILL = "epoch/skill_validation"

_EPOCH = {
    "train_loss": "epoch/loss_train",
    "validation_loss": "epoch/loss_validation",
    "validation_skill": VALIDATION_SKILL,
    "refit_loss": "epoch/loss_refit",
    "seconds": "time/epoch_s",
    "refit_seconds": "time/refit_epoch_s",
}


def epoch_metric(name: str) -> str:
    """Return the name in MLflow of a metric of an epoch, such as ``epoch/loss_train`` for ``train_loss``."""
    return _EPOCH.get(name, f"epoch/{name}")
