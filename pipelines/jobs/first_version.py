"""Choose champion or challenger for a version of a model without a champion; find the end of its training."""

from __future__ import annotations

from datetime import UTC, datetime

from forecaster.evaluation.backtest import Backtest
from forecaster.registry.versions import Version
from forecaster.time.windows import MICROSECONDS, Windows
from forecaster.training.train import Trained, held_out_from
from pipelines.settings.config import JobConfig

CHAMPION, CHALLENGER = "champion", "challenger"


def first_alias(found: Backtest | None) -> tuple[str, str]:
    """Return the alias (champion or challenger) for a version of a model without champion, and the reason.

    Only a version that is better than persistence in its backtest becomes the champion.
    """
    gain = None if found is None else found.comparison.skill()
    if gain is None:
        return CHALLENGER, "it has no backtest, since the data are too short or training.backtest is 0"
    if gain <= 0:
        return CHALLENGER, f"it is not better than persistence in its backtest (skill {gain:+.1%})"
    return CHAMPION, f"it is the first version that is better than persistence (skill {gain:+.1%})"


def challenger_notice(version: Version, alias: str, why: str) -> list[str]:
    """Return a notice if a version became the challenger while its model has no champion."""
    if alias != CHALLENGER or alias not in version.aliases:
        return []
    line = f"{version} is the challenger, and the model has no champion: {why}"
    return [f"{line}; statecast promote {version} makes it the champion"]


def learned_until(windows: Windows, trained: Trained, config: JobConfig) -> datetime:
    """Return the end of the last window that a new version's weights were trained on or chosen by."""
    is_refit = trained.forecaster is not trained.chosen
    rows = len(windows.values)
    last = rows if is_refit else held_out_from(rows, config.training)[1]
    until_us = int(config.windows.frequency.end_us(int(windows.index[last - 1])))
    return datetime.fromtimestamp(until_us / MICROSECONDS, UTC)
