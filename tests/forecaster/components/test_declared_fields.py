"""Tests that components use only the block fields that they declare, and run in a valid order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, NoReturn

import numpy as np
import pytest

from forecaster.arrays import Arrays
from forecaster.components import chain
from forecaster.components.base import FIELDS_OF_CALLER, Block, Component, Outputs
from forecaster.components.network.inputs import input_components
from forecaster.model import Forecaster
from tests.fleets import START
from tests.forecaster.components.test_conformance import (
    KINDS,
    SERIES,
    block_of_windows,
    every_component,
    model_of,
    values_with_gaps,
)

EXPERTS_THAT_USE_LESS = {"persistence", "seasonal_naive", "weekly_naive", "seasonal_least_squares"}
"""Experts share one declaration, and only ``least_squares``, which has a season, uses all fields in it."""
NAMES = {field.name for field in fields(Block)} - FIELDS_OF_CALLER - {"out", "members"}


def fail(self: Undeclared, *given: Any, **options: Any) -> NoReturn:
    raise AssertionError(f"the component uses {vars(self)['name']}, which it does not declare")


class Undeclared:
    """A value in place of a field that a component does not declare; nearly every use raises an error.

    The error is an AssertionError that names the field.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    __getattr__ = __array__ = __array_ufunc__ = __len__ = __iter__ = __getitem__ = __setitem__ = fail
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = fail
    __or__ = __ror__ = __and__ = __rand__ = __gt__ = __lt__ = __neg__ = __invert__ = __bool__ = fail


def with_declared_fields_only(block: Block, declared: frozenset[str]) -> Block:
    """Return a copy of the block that hides the fields that are not in ``declared``.

    An undeclared entry of ``members`` is left out; any other undeclared field becomes an `Undeclared`.

    The fields of the caller stay as they are, because components need not declare them.
    """
    hidden: dict[str, Any] = {name: Undeclared(name) for name in NAMES - declared}
    members = {name: array for name, array in block.members.items() if f"members.{name}" in declared}
    out: dict[str, Any] = {
        name: Undeclared(f"out.{name}") for name in Outputs._fields if f"out.{name}" not in declared
    }
    return replace(block, **hidden, members=members, out=block.out._replace(**out))


def arrays_of(block: Block) -> Arrays:
    """Return copies of a block's arrays, by the names that components declare, such as ``out.forecast``."""
    every = {field.name: getattr(block, field.name) for field in fields(Block)}
    every |= {f"members.{name}": array for name, array in block.members.items()}
    every |= {f"out.{name}": array for name, array in block.out._asdict().items()}
    return {name: array.copy() for name, array in every.items() if isinstance(array, np.ndarray)}


def component_and_block(name: str, cell: str) -> tuple[Component, Block]:
    """Return the component ``name`` of a model, and a block that all components before it have stepped."""
    model = model_of(cell)
    block = block_of_windows(model, values_with_gaps(), np.array([START]))
    for component in model.components:
        if component.name == name:
            return component, block
        _, block = component.step(component.init(SERIES), block)
    raise AssertionError(f"no component is called {name}")


def chain_of(names: Sequence[str]) -> list[Component]:
    """Return the components with these ``names`` from one forecaster, in the order of ``names``."""
    by_name = {component.name: component for component in model_of("lstm").components}
    return [by_name[name] for name in names]


@every_component
def test_a_component_reads_and_writes_only_its_declared_fields(name: str, cell: str) -> None:
    component, block = component_and_block(name, cell)
    block = with_declared_fields_only(block, component.reads | component.writes)
    before = arrays_of(block)
    _, block = component.step(component.init(SERIES), block)
    after = arrays_of(block)
    changed = {
        key
        for key, array in after.items()
        if key not in before or not np.array_equal(array, before[key], equal_nan=array.dtype.kind == "f")
    }
    assert changed == component.writes


@pytest.mark.parametrize(("name", "cell"), [kind for kind in KINDS if kind[0] not in EXPERTS_THAT_USE_LESS])
def test_components_except_some_experts_use_each_field_in_reads(name: str, cell: str) -> None:
    component, block = component_and_block(name, cell)
    for field in component.reads:
        limited = with_declared_fields_only(block, (component.reads | component.writes) - {field})
        with pytest.raises((AssertionError, KeyError), match=field.removeprefix("members.")):
            component.step(component.init(SERIES), limited)


def test_check_order_refuses_fields_read_before_they_are_written() -> None:
    """A component reads fields of the block, which an earlier component must have written."""
    with pytest.raises(
        ValueError, match=r"^season reads 'history' before ring writes it: put ring before season$"
    ):
        chain.check_order(chain_of(["season", "ring", "moments"]))


def test_a_component_that_reads_a_field_no_component_writes_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"^moments reads 'history', which no earlier component writes: add one before moments$",
    ):
        chain.check_order(chain_of(["moments"]))


def test_a_read_only_component_before_a_writer_is_refused() -> None:
    """If a component reads a field but does not write it, it must step after all components that write it."""
    names = [component.name for component in model_of("lstm").components]
    assert names[-4:] == ["intervals", "anomaly", "scores", "drift"]
    with pytest.raises(ValueError, match=r"^anomaly reads 'out\.forecast' before intervals writes it: "):
        chain.check_order(chain_of([*names[:-4], "anomaly", "intervals", "scores"]))


def test_a_forecaster_with_misordered_components_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("lstm")
    monkeypatch.setattr(chain, "input_components", lambda *given: input_components(*given)[::-1])
    with pytest.raises(ValueError, match=r"^moments reads 'history' before ring writes it: "):
        Forecaster.untrained(model.network_config, model.window_config)
