"""Promote a model version if a comparison with the version in use passes the gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from forecaster.evaluation.gate import Decision, decide
from forecaster.registry.registry import Promotion, Registry, Run, Version
from pipelines.jobs.compare import Compared, comparing
from pipelines.jobs.progress import SILENT, Progress
from pipelines.jobs.registry import open_registry
from pipelines.settings.config import JobConfig
from schemas.errors import ModelError


@dataclass(frozen=True)
class Gated:
    """The result of a requested promotion: the gate's decision, and the move of the alias if it passed.

    Attributes:
        version: the version to promote.
        compared: its comparison with the version in use.
        decision: the decision, with every check.
        promotion: the move of the alias; None if the version was refused.
    """

    version: Version
    compared: Compared
    decision: Decision
    promotion: Promotion | None

    @property
    def line(self) -> str:
        """The decision of the gate and its reasons, as one line."""
        champion = self.compared.refs[0]
        verb = "replaces" if self.decision.promote else "does not replace"
        return f"{self.version} {verb} {champion}: {'; '.join(self.decision.reasons)}"

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        return {
            "version": str(self.version),
            "decision": self.decision.as_json(),
            "promoted": self.promotion is not None,
            "reason": self.line,
            "comparison": self.compared.as_json(),
        }


def run_promotion(config: JobConfig, ref: str, alias: str, progress: Progress = SILENT) -> Gated:
    """Compare a version with the version in use; if it passes the gate, move ``alias`` to it.

    Args:
        config: data, gate and MLflow store.
        ref: the version: ``NAME/3`` or ``NAME@ALIAS``.
        alias: the alias to move, such as ``champion``.
        progress: functions that report the progress.

    Raises:
        StatecastError: a file, a setting, a model or the store is at fault; the message is one line.
    """
    registry = open_registry(config.mlflow)
    version = registry.aliases.find(ref)
    current = version_in_use(registry, version.name, alias)
    with comparing(registry, config, str(current), str(version), progress) as (run, compared):
        return decide_in(run, registry, config, version, current, alias, compared)


def version_in_use(registry: Registry, name: str, alias: str) -> Version:
    """Return the model version that an alias points to.

    Raises:
        ModelError: the model has no such alias.
    """
    found = registry.aliases.pointed_to(name, alias)
    if found is None:
        raise ModelError(
            f"{name} has no {alias} to compare with: set one with statecast promote, without --if-better"
        )
    return found


def decide_in(
    run: Run,
    registry: Registry,
    config: JobConfig,
    version: Version,
    current: Version,
    alias: str,
    compared: Compared,
) -> Gated:
    """Apply the gate to a comparison, log the decision, and move the alias if the version passes.

    Raises:
        ModelError: the store reports an error, or the alias was moved during the comparison.
    """
    decision = decide(compared.comparison, config.gate)
    gated = Gated(version, compared, decision, None)
    run.log_tags(
        {"statecast.decision": "promoted" if decision.promote else "refused", "statecast.reason": gated.line}
    )
    run.log_frame(pl.DataFrame([vars(check) for check in decision.checks]), "gate/checks.json")
    run.send()
    marks = {True: "passed", False: "failed"}
    checks = "\n".join(f"- {check.name}, {marks[check.passed]}: {check.reason}" for check in decision.checks)
    verb = "Replaces" if decision.promote else "Refused as a replacement of"
    registry.aliases.write_decision(version, f"{verb} {current} as {alias}, by run {run.run_id}:\n\n{checks}")
    if not decision.promote:
        return gated
    in_use = registry.aliases.pointed_to(version.name, alias)
    if in_use is None or in_use.number != current.number:
        raise ModelError(
            f"{version.name}@{alias} was moved during the comparison with {current}: compare again"
        )
    moved = registry.promote(str(version), alias, gated.line)
    return Gated(version, compared, decision, moved)
