"""Tests of the rules that every component of a model must follow.

The tests take the components from `FORMAT_VERSIONS`, so that a new component is tested without a change here.
"""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest

from forecaster.arrays import Arrays, Floats, Ints
from forecaster.components.base import Block, Component, Outputs
from forecaster.components.formats import FORMAT_VERSIONS
from forecaster.components.scores import scored_horizons
from forecaster.model import Forecaster
from forecaster.state import State
from forecaster.stepping.step_block import with_known_covariates
from forecaster.time.frequency import Frequency
from tests.fleets import START, forecaster

CELLS = ("lstm", "gru", "rnn")
KINDS = [*((part, "lstm") for part in FORMAT_VERSIONS if part != "network"), *(("network", c) for c in CELLS)]
every_component = pytest.mark.parametrize(("name", "cell"), KINDS)

MISSING = [("ring", "values"), ("stacking", "waiting"), ("stacking", "issued"), ("intervals", "issued")]
MISSING += [("anomaly", "expected"), ("anomaly", "last"), ("past", "heat.ring")]
"""Fields in which NaN marks a missing entry, by component and field."""

HALF_DAY = Frequency(43_200)
RING = 15  # one window more than a week, which has 14 windows of 12 hours
WINDOWS, SERIES = 19, 4  # the tests step 19 windows, more than the 15 that the ring holds


def model_of(cell: str) -> Forecaster:
    """Return a forecaster of 12-hour windows with one observed covariate and a ring longer than a week."""
    return forecaster(cell, freq="12h", ring=RING, observed=("heat",))


def values_with_gaps(seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    values: Floats = np.array([1.0, 100.0, -5.0, 1e9]) + rng.normal(size=(WINDOWS, SERIES)).cumsum(axis=0)
    values[rng.random(values.shape) < 0.3] = np.nan
    values[:, 2] = np.nan
    return values


def block_of_windows(model: Forecaster, values: Floats, start: Ints, lengths: Ints | None = None) -> Block:
    """Return a block that no component has stepped yet; all its outputs are NaN."""
    config = model.network_config
    windows, series = values.shape
    horizon, scored = config.horizon, len(scored_horizons(config.horizon))
    out = Outputs.empty(len(config.quantiles), len(model.members), windows, series, horizon, scored)
    for array in out:
        array[:] = np.nan
    past, edges = (values % 7.0)[:, :, None], np.empty((series, 2, 9), np.float32)
    edges[:] = np.linspace(-4.0, 4.0, 9)
    block = Block(start, values, HALF_DAY, lengths, past=past, edges=edges, out=out)
    return with_known_covariates(model, [str(s) for s in range(series)], block)


def step_chain(
    model: Forecaster,
    name: str,
    values: Floats,
    start: int = START,
    before: dict[str, Arrays] | None = None,
    lengths: Ints | None = None,
    starts: Ints | None = None,
) -> tuple[Component, dict[str, Arrays], Block]:
    """Step the block of `block_of_windows` through a forecaster's components up to and including ``name``.

    Args:
        model: the forecaster whose chain is stepped.
        name: the last component to step.
        values: ``[T, S]``, NaN where missing.
        start: index of the first window, the same for all series.
        before: arrays of every component before the block; None for the initial arrays.
        lengths: ``[S]``, rows of each series that are no padding; None for all.
        starts: ``[S]``, index of the first window of each series; replaces ``start``.

    Returns:
        The component ``name``, the arrays of all stepped components, and the block after them.
    """
    block = block_of_windows(model, values, np.array([start]) if starts is None else starts, lengths)
    after: dict[str, Arrays] = {}
    for component in model.components:
        own = component.init(values.shape[1]) if before is None else before[component.name]
        after[component.name], block = component.step({f: a.copy() for f, a in own.items()}, block)
        if component.name == name:
            return component, after, block
    raise AssertionError(f"no component is called {name}")


def assert_close(a: Arrays, b: Arrays) -> None:
    assert a.keys() == b.keys()
    for field, array in a.items():
        np.testing.assert_allclose(array, b[field], rtol=1e-12, atol=1e-5, err_msg=field)


def added_arrays(block: Block) -> Arrays:
    """Return, by name, the observed covariates ``past`` and the arrays that components added to a block.

    Axis 0 of each array is the window, axis 1 the series. Of ``history``, return only the rows of the block's
    own windows.
    """
    found: Arrays = {
        field.name: getattr(block, field.name)
        for field in fields(Block)
        if field.name
        not in (
            "start",
            "values",
            "freq",
            "lengths",
            "history",
            "out",
            "members",
            "shape",
            "residuals",
            "bands",
            "known",
            "edges",
        )
    }
    found = {key: array for key, array in found.items() if array.size}
    if block.history.size:
        found["history"] = block.history[-len(block.values) :]
    for key, array in block.out._asdict().items():
        found[key] = np.moveaxis(array, 0, -1)
    found["shape"] = np.moveaxis(block.shape, 1, -1) if block.shape.size else np.empty((len(block.values), 0))
    members = {key: np.moveaxis(array, 0, -1) for key, array in block.members.items()}
    if block.residuals.size:
        found["residuals"] = np.moveaxis(block.residuals, 1, -1)
    if block.bands.size:
        found["bands"] = np.moveaxis(block.bands, -1, 1)
    return {key: array for key, array in (found | members).items() if array.size}


@every_component
def test_component_init_and_step_return_the_arrays_of_the_spec(name: str, cell: str) -> None:
    component, after, _ = step_chain(model_of(cell), name, values_with_gaps())
    for arrays in (component.init(SERIES), after[name]):
        assert arrays.keys() == component.spec().keys()
        for field, (dtype, shape) in component.spec().items():
            assert arrays[field].dtype == dtype, field
            assert arrays[field].shape == (SERIES, *shape), field


@every_component
def test_format_versions_has_the_format_version_of_each_component(name: str, cell: str) -> None:
    component, _, _ = step_chain(model_of(cell), name, values_with_gaps())
    assert FORMAT_VERSIONS[name] == component.format_version


@every_component
def test_component_init_returns_new_arrays_on_each_call(name: str, cell: str) -> None:
    component, _, _ = step_chain(model_of(cell), name, values_with_gaps())
    for series in (1, 3):
        clean = {field: array.copy() for field, array in component.init(series).items()}
        for array in component.init(series).values():
            array[...] = 7
        assert_close(component.init(series), clean)


@every_component
def test_component_arrays_are_restored_from_state_bytes(name: str, cell: str) -> None:
    model = model_of(cell)
    _, after, _ = step_chain(model, name, values_with_gaps())
    blank = model.new_series_state(tuple("abcd"), START)
    state = replace(blank, parts={**blank.parts, **after})
    again = State.from_bytes(state.to_bytes()).parts[name]
    for field, array in after[name].items():
        np.testing.assert_array_equal(again[field], array, strict=True)
        assert again[field].flags.writeable


@every_component
def test_take_join_and_put_move_component_arrays_unchanged(name: str, cell: str) -> None:
    model = model_of(cell)
    _, after, _ = step_chain(model, name, values_with_gaps())
    blank = model.new_series_state(tuple("abcd"), START)
    state = replace(blank, parts={**blank.parts, **after})
    first, rest = state.take(np.array([2])), state.take(np.array([3, 0, 1]))
    joined = State.join([first, rest])
    assert joined.series_ids == ("c", "d", "a", "b")
    blank.put(np.array([2, 3, 0, 1]), joined)
    for field, array in after[name].items():
        np.testing.assert_array_equal(joined.parts[name][field], array[[2, 3, 0, 1]])
        np.testing.assert_array_equal(blank.parts[name][field], array)


@every_component
@pytest.mark.parametrize("cut", [1, 5, 10])
def test_component_results_do_not_depend_on_block_sizes(name: str, cell: str, cut: int) -> None:
    model, values = model_of(cell), values_with_gaps()
    last = model.components[-1].name
    _, whole, block = step_chain(model, last, values)
    before, parts = None, []
    bounds = [0, cut, WINDOWS] if cut > 1 else list(range(WINDOWS + 1))
    for first, stop in pairwise(bounds):
        _, before, part = step_chain(model, last, values[first:stop], START + first, before)
        parts.append(added_arrays(part))
    assert before is not None
    assert_close(whole[name], before[name])
    assert_close(added_arrays(block), {key: np.concatenate([p[key] for p in parts]) for key in parts[0]})


@every_component
def test_component_results_of_a_series_do_not_depend_on_other_series(name: str, cell: str) -> None:
    model, values = model_of(cell), values_with_gaps()
    _, together, block = step_chain(model, name, values)
    for s in range(SERIES):
        _, alone, own = step_chain(model, name, values[:, [s]])
        assert_close({f: a[[s]] for f, a in together[name].items()}, alone[name])
        assert_close({key: a[:, [s]] for key, a in added_arrays(block).items()}, added_arrays(own))


@every_component
def test_components_compute_each_series_independently_of_other_series(name: str, cell: str) -> None:
    model, values = model_of(cell), values_with_gaps()
    other = values.copy()
    other[:, 1] = 1e6 * np.random.default_rng(5).normal(size=WINDOWS)
    _, one, block = step_chain(model, name, values)
    _, two, changed = step_chain(model, name, other)
    rest = np.array([0, 2, 3])
    for field, array in one[name].items():
        np.testing.assert_array_equal(array[rest], two[name][field][rest], err_msg=field)
    for key, array in added_arrays(block).items():
        np.testing.assert_array_equal(array[:, rest], added_arrays(changed)[key][:, rest], err_msg=key)


@every_component
def test_stepping_series_with_different_starts_together_equals_stepping_alone(name: str, cell: str) -> None:
    model, values = model_of(cell), values_with_gaps()
    lengths = np.array([WINDOWS, 3, 1, 9])
    starts = START + np.array([0, 50, 7, 2])
    padded = np.where(np.arange(WINDOWS)[:, None] < lengths, values, np.nan)
    _, together, block = step_chain(model, name, padded, lengths=lengths, starts=starts)
    for s, length in enumerate(lengths):
        _, alone, own = step_chain(model, name, values[:length, [s]], int(starts[s]))
        assert_close({f: a[[s]] for f, a in together[name].items()}, alone[name])
        assert_close({key: a[:length, [s]] for key, a in added_arrays(block).items()}, added_arrays(own))


@every_component
@pytest.mark.parametrize("value", [np.nan, 0.0, 1e9, -1e-9])
def test_component_arrays_and_forecasts_of_extreme_values_are_finite(
    name: str, cell: str, value: float
) -> None:
    values = values_with_gaps()
    values[5:, :] = value
    _, after, block = step_chain(model_of(cell), name, values)
    for field, array in after[name].items():
        known = array[~np.isnan(array)] if (name, field) in MISSING else array
        assert np.isfinite(known).all(), field
    if name == "network":
        assert np.isfinite(block.out.forecast).all()
