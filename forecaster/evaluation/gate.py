"""Decide from a comparison whether a challenger replaces the champion.

The decision is a pure function of the comparison and of the limits of the job file, so that it can be
repeated and tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from forecaster.setting_types import Settings

if TYPE_CHECKING:
    from forecaster.evaluation.paired_comparison import PairedComparison

_ROUNDING = 1e-9


class GateConfig(Settings):
    """What a challenger must show on recent data before it replaces the champion."""

    margin: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share by which the mean pinball loss must at least be smaller than the champion's; the "
        "lower end of the confidence interval must exceed it",
    )
    confidence: float = Field(
        0.9, ge=0.5, lt=1, description="confidence of the interval of the improvement, such as 0.9"
    )
    coverage_error: float = Field(
        0.05,
        ge=0,
        le=1,
        description="largest difference between the coverage of the widest interval and its nominal coverage",
    )
    class_worse: float = Field(
        0.05, ge=0, le=1, description="share by which the loss of any class of series may at most be larger"
    )
    classes: str = Field(
        "",
        description='column of covariates.static whose values are the classes of series; "": smooth, '
        "erratic, intermittent and lumpy series",
    )
    times_larger: float = Field(
        2.0,
        gt=0,
        allow_inf_nan=False,
        description="how many times as large as the champion's the weights and the state of a series may be",
    )
    times_slower: float = Field(
        2.0,
        gt=0,
        allow_inf_nan=False,
        description="how many times as long as the champion the challenger may take for the same windows",
    )
    least_blocks: int = Field(
        5,
        ge=2,
        description="blocks of successive issue times, each as long as their errors are correlated, that the "
        "data must at least have",
    )


@dataclass(frozen=True)
class Check:
    """The result of checking a challenger against one limit of the gate.

    Attributes:
        name: what is limited, such as ``coverage``.
        passed: whether the challenger is inside the limit.
        reason: one sentence with the number and the limit.
    """

    name: str
    passed: bool
    reason: str


@dataclass(frozen=True)
class Decision:
    """The decision whether a challenger replaces the champion, with the check of every limit.

    Attributes:
        checks: one for every limit, the passed ones too.
    """

    checks: tuple[Check, ...]

    @property
    def promote(self) -> bool:
        """Whether the challenger replaces the champion: True if every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons of the failed checks; if all checks passed, the reasons of all."""
        return tuple(check.reason for check in self.checks if check.passed == self.promote)

    def as_json(self) -> dict[str, Any]:
        """Return the decision as a dictionary, which is part of the output of ``--json``."""
        return {"promote": self.promote, "checks": [vars(check) for check in self.checks]}


def decide(comparison: PairedComparison, gate: GateConfig) -> Decision:
    """Check a comparison against every limit of the gate, and return the decision.

    Two identical models have an improvement of 0 with an interval from 0 to 0, which never exceeds the
    margin. If a challenger passes a check, every challenger with numbers at least as good passes it, too.
    """
    return Decision(
        (
            _evidence(comparison, gate),
            _improvement(comparison, gate),
            _coverage(comparison, gate),
            *_classes(comparison, gate),
            *_costs(comparison, gate),
        )
    )


def _evidence(comparison: PairedComparison, gate: GateConfig) -> Check:
    found, least = comparison.blocks, gate.least_blocks
    return Check(
        "evidence",
        found >= least,
        f"{comparison.issues:,} issue times are {found} blocks of {comparison.block}, and at least {least} "
        "blocks are needed",
    )


def _improvement(comparison: PairedComparison, gate: GateConfig) -> Check:
    share, low, high = comparison.overall
    return Check(
        "improvement",
        low > gate.margin,
        f"the loss is {_change(share)} (the improvement is {_percent(low)} to {_percent(high)} with "
        f"{comparison.confidence:.0%} confidence, and must exceed {_percent(gate.margin)})",
    )


def _coverage(comparison: PairedComparison, gate: GateConfig) -> Check:
    if comparison.interval is None or comparison.coverage is None:
        return Check("coverage", True, "the models have no interval in common, so no coverage is checked")
    low, high = comparison.interval
    nominal, found = round(high - low, 9), comparison.coverage[1]
    return Check(
        "coverage",
        abs(found - nominal) <= gate.coverage_error + _ROUNDING,
        f"the {nominal:.0%} interval covers {found:.1%} of the actuals, and may differ by "
        f"{_percent(gate.coverage_error)}",
    )


def _classes(comparison: PairedComparison, gate: GateConfig) -> Iterator[Check]:
    for name, found in comparison.by_class.items():
        yield Check(
            f"class {name}",
            found.share >= -gate.class_worse,
            f"the loss of {name} series is {_change(found.share)}, and may be "
            f"{_percent(gate.class_worse)} larger",
        )


def _costs(comparison: PairedComparison, gate: GateConfig) -> Iterator[Check]:
    old, new = comparison.costs
    for name, field, what, most in (
        ("state size", "state_bytes", "the state of a series is", gate.times_larger),
        ("weights size", "weights_bytes", "the weights are", gate.times_larger),
        ("speed", "seconds", "the replay took", gate.times_slower),
    ):
        before, after = getattr(old, field), getattr(new, field)
        unit = "s" if field == "seconds" else "bytes"
        yield Check(
            name,
            after <= most * before,
            f"{what} {after:,.6g} {unit}, and may be {most:g} times the champion's {before:,.6g}",
        )


def _change(share: float) -> str:
    """Return the change of the loss as text: ``2.00 % smaller`` for an improvement ``share`` of 0.02."""
    return f"{_percent(abs(share))} {'larger' if share < 0 else 'smaller'}"


def _percent(share: float) -> str:
    """Return a share in percent with two digits after the point."""
    return f"{100 * share:.2f} %"
