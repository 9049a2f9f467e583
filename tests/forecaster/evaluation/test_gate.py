"""Tests of the gate, which promotes a challenger only if its comparison keeps every limit.

A decision gives all its reasons.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from forecaster.evaluation.bootstrap import Improvement
from forecaster.evaluation.gate import GateConfig, decide
from forecaster.evaluation.paired_comparison import Cost, PairedComparison

SHARES = st.floats(-1, 1)
COSTS = st.builds(Cost, st.floats(1, 1e6), st.integers(1, 10**9), st.floats(1e-3, 1e3))


def improvement(share: float, below: float = 0.0, above: float = 0.0) -> Improvement:
    """Return an improvement by ``share`` with the interval from ``share - below`` to ``share + above``."""
    return Improvement(share, share - below, share + above)


@st.composite
def improvements(draw: st.DrawFn) -> Improvement:
    return improvement(draw(SHARES), draw(st.floats(0, 1)), draw(st.floats(0, 1)))


@st.composite
def comparisons(draw: st.DrawFn) -> PairedComparison:
    coverage = draw(st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)))
    names = draw(st.lists(st.sampled_from(["smooth", "lumpy", "erratic"]), unique=True))
    return PairedComparison(
        "lstm-1",
        "lstm-2",
        pl.DataFrame(),
        draw(improvements()),
        {},
        {name: draw(improvements()) for name in names},
        dict.fromkeys(names, 1),
        None if coverage is None else (0.05, 0.95),
        coverage,
        issues=draw(st.integers(1, 1000)),
        block=draw(st.integers(1, 100)),
        confidence=0.9,
        costs=(draw(COSTS), draw(COSTS)),
    )


GATES = st.builds(
    GateConfig,
    margin=st.floats(0, 0.5),
    coverage_error=st.floats(0, 1),
    class_worse=st.floats(0, 1),
    times_larger=st.floats(0.1, 10),
    times_slower=st.floats(0.1, 10),
    least_blocks=st.integers(2, 20),
)

PASSING = PairedComparison(
    "lstm-1",
    "lstm-2",
    pl.DataFrame(),
    improvement(0.1, 0.05, 0.05),
    {},
    {"smooth": improvement(0.1), "lumpy": improvement(-0.04)},
    {"smooth": 3, "lumpy": 1},
    (0.05, 0.95),
    (0.7, 0.9),
    issues=240,
    block=24,
    confidence=0.9,
    costs=(Cost(8000.0, 1000, 1.0), Cost(8000.0, 1900, 1.9)),
)


def inside_every_limit(found: PairedComparison, gate: GateConfig) -> bool:
    old, new = found.costs
    covers = found.coverage is None or abs(found.coverage[1] - 0.9) <= gate.coverage_error + 2e-9
    return (
        found.issues // found.block >= gate.least_blocks
        and found.overall.low > gate.margin
        and covers
        and all(one.share >= -gate.class_worse for one in found.by_class.values())
        and new.state_bytes <= gate.times_larger * old.state_bytes
        and new.weights_bytes <= gate.times_larger * old.weights_bytes
        and new.seconds <= gate.times_slower * old.seconds
    )


@given(comparisons(), GATES)
def test_a_challenger_outside_any_limit_is_not_promoted(found: PairedComparison, gate: GateConfig) -> None:
    assert not decide(found, gate).promote or inside_every_limit(found, gate)


@given(comparisons(), GATES)
def test_a_challenger_without_any_improvement_is_never_promoted(
    found: PairedComparison, gate: GateConfig
) -> None:
    same = replace(found, overall=improvement(0.0), by_class=dict.fromkeys(found.by_class, improvement(0.0)))
    assert not decide(same, gate).promote


@given(comparisons(), GATES)
def test_a_decision_gives_the_reason_of_every_failed_check(found: PairedComparison, gate: GateConfig) -> None:
    decision = decide(found, gate)
    assert decision.promote == all(check.passed for check in decision.checks)
    failed = [check.reason for check in decision.checks if not check.passed]
    assert list(decision.reasons) == (failed or [check.reason for check in decision.checks])
    assert len(decision.checks) == 6 + len(found.by_class)


@given(comparisons(), GATES, st.data())
def test_a_comparison_better_than_a_passing_one_also_passes(
    found: PairedComparison, gate: GateConfig, data: st.DataObject
) -> None:
    if not inside_every_limit(found, gate):
        found = replace(PASSING, coverage=(0.7, data.draw(st.floats(0.85, 0.95))))
        gate = GateConfig()
    assume(decide(found, gate).promote)

    def raised(one: Improvement) -> Improvement:
        more = data.draw(st.floats(0, 1))
        return Improvement(one.share + more, one.low + more, one.high + more)

    def lowered(cost: Cost) -> Cost:
        less = data.draw(st.floats(0, 1))
        return Cost(cost.state_bytes * less, int(cost.weights_bytes * less), cost.seconds * less)

    coverage = found.coverage
    if coverage is not None:
        coverage = coverage[0], 0.9 + (coverage[1] - 0.9) * data.draw(st.floats(-1, 1))
    better = replace(
        found,
        overall=raised(found.overall),
        by_class={name: raised(one) for name, one in found.by_class.items()},
        coverage=coverage,
        issues=found.issues + data.draw(st.integers(0, 100)),
        costs=(found.costs[0], lowered(found.costs[1])),
    )
    assume(coverage is None or abs(coverage[1] - 0.9) <= abs(found.coverage[1] - 0.9))  # type: ignore[index]
    assert decide(better, gate).promote


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("evidence", {"issues": 100}),
        ("improvement", {"overall": Improvement(0.1, 0.0, 0.2)}),
        ("coverage", {"coverage": (0.9, 0.8)}),
        ("class lumpy", {"by_class": {"lumpy": improvement(-0.06)}}),
        ("state size", {"costs": (Cost(8.0, 1, 1.0), Cost(17.0, 1, 1.0))}),
        ("weights size", {"costs": (Cost(8.0, 1, 1.0), Cost(8.0, 3, 1.0))}),
        ("speed", {"costs": (Cost(8.0, 1, 1.0), Cost(8.0, 1, 2.1))}),
    ],
)
def test_breaking_one_gate_limit_fails_only_its_check(name: str, changes: dict[str, Any]) -> None:
    assert decide(PASSING, GateConfig()).promote
    decision = decide(replace(PASSING, **changes), GateConfig())
    assert not decision.promote
    assert [check.name for check in decision.checks if not check.passed] == [name]


def test_the_reason_of_a_refusal_gives_the_measure_and_its_limit() -> None:
    decision = decide(replace(PASSING, overall=Improvement(-0.012, -0.03, 0.01)), GateConfig(margin=0.01))
    assert " ".join(decision.reasons) == (
        "the loss is 1.20 % larger (the improvement is -3.00 % to 1.00 % with 90% confidence, and must "
        "exceed 1.00 %)"
    )


EDGES = GateConfig(
    margin=0.02, coverage_error=0.05, class_worse=0.05, times_larger=2, times_slower=3, least_blocks=5
)


def costs(state_bytes: float = 8000.0, weights_bytes: int = 1000, seconds: float = 1.0) -> tuple[Cost, Cost]:
    """Return the costs of the champion and a challenger; without arguments, both costs are equal."""
    return Cost(8000.0, 1000, 1.0), Cost(state_bytes, weights_bytes, seconds)


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("evidence", {"issues": 5 * 24}, {"issues": 5 * 24 - 1}),
        ("improvement", {"overall": Improvement(0.1, 0.021, 0.2)}, {"overall": Improvement(0.1, 0.02, 0.2)}),
        ("coverage", {"coverage": (0.0, 0.85)}, {"coverage": (0.9, 0.849)}),
        ("coverage", {"coverage": (0.0, 0.95)}, {"coverage": (0.9, 0.951)}),
        (
            "class lumpy",
            {"by_class": {"lumpy": Improvement(-0.05, -0.9, 0.9)}},
            {"by_class": {"lumpy": Improvement(-0.051, -0.051, 0.9)}},
        ),
        ("state size", {"costs": costs(state_bytes=16_000)}, {"costs": costs(state_bytes=16_001)}),
        ("weights size", {"costs": costs(weights_bytes=2000)}, {"costs": costs(weights_bytes=2001)}),
        ("speed", {"costs": costs(seconds=3.0)}, {"costs": costs(seconds=3.01)}),
    ],
)
def test_the_gate_promotes_inside_each_limit_and_refuses_outside(
    name: str, inside: dict[str, Any], outside: dict[str, Any]
) -> None:
    assert decide(replace(PASSING, **inside), EDGES).promote
    decision = decide(replace(PASSING, **outside), EDGES)
    assert [check.name for check in decision.checks if not check.passed] == [name]


def test_a_decision_shows_the_numbers_of_every_check() -> None:
    decision = decide(replace(PASSING, costs=(Cost(8000.0, 1000, 1.0), Cost(9000.0, 1900, 1.5))), EDGES)
    assert decision.promote
    assert decision.reasons == (
        "240 issue times are 10 blocks of 24, and at least 5 blocks are needed",
        (
            "the loss is 10.00 % smaller (the improvement is 5.00 % to 15.00 % with 90% confidence, and must "
            "exceed 2.00 %)"
        ),
        "the 90% interval covers 90.0% of the actuals, and may differ by 5.00 %",
        "the loss of smooth series is 10.00 % smaller, and may be 5.00 % larger",
        "the loss of lumpy series is 4.00 % larger, and may be 5.00 % larger",
        "the state of a series is 9,000 bytes, and may be 2 times the champion's 8,000",
        "the weights are 1,900 bytes, and may be 2 times the champion's 1,000",
        "the replay took 1.5 s, and may be 3 times the champion's 1",
    )


def test_coverage_is_not_checked_if_models_share_no_interval() -> None:
    decision = decide(replace(PASSING, interval=None, coverage=None), EDGES)
    assert decision.promote
    assert "the models have no interval in common, so no coverage is checked" in decision.reasons


def test_gate_limits_in_the_documentation_are_the_defaults() -> None:
    """The test does not compare two settings with the page.

    The page shows an example of `margin` that is not the default, and no line with the default of `classes`.
    """
    page = (Path(__file__).parents[3] / "docs" / "promotion.md").read_text()
    limits = GateConfig().model_dump()
    assert (limits.pop("margin"), limits.pop("classes")) == (0.0, "")
    for name, value in limits.items():
        assert f"\n{name} = {json.dumps(value)} " in page, name
