"""What every component of a state keeps to, whatever it is; a new one is added to none of these tests."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest

from forecaster.arrays import Arrays, Floats, Ints
from forecaster.components.base import Block, Component, Outputs
from forecaster.components.formats import FORMAT_VERSIONS
from forecaster.model import Forecaster
from forecaster.state import State
from forecaster.stepping import block_knowing
from forecaster.time.frequency import Frequency
from tests.fleets import START, forecaster

CELLS = ("lstm", "gru", "rnn")
KINDS = [*((part, "lstm") for part in FORMAT_VERSIONS if part != "network"), *(("network", c) for c in CELLS)]
every = pytest.mark.parametrize(("name", "cell"), KINDS)

MISSING = [("ring", "values"), ("stacking", "waiting"), ("stacking", "issued"), ("intervals", "issued")]
MISSING += [("anomaly", "expected"), ("anomaly", "last"), ("past", "heat.ring")]
"""Fields in which NaN says that there is nothing."""

HALF_DAY = Frequency(43_200)
RING = 15  # a day and a week fit
WINDOWS, SERIES = 19, 4  # longer than the ring


def model_of(cell: str) -> Forecaster:
    """Of half days, whose day and whose week fit into the ring, and with a covariate."""
    return forecaster(cell, freq="12h", ring=RING, observed=("heat",))


def fleet(seed: int = 0) -> Floats:
    chance = np.random.default_rng(seed)
    values: Floats = np.array([1.0, 100.0, -5.0, 1e9]) + chance.normal(size=(WINDOWS, SERIES)).cumsum(axis=0)
    values[chance.random(values.shape) < 0.3] = np.nan
    values[:, 2] = np.nan
    return values


def run(
    model: Forecaster,
    name: str,
    values: Floats,
    start: int = START,
    before: dict[str, Arrays] | None = None,
    lengths: Ints | None = None,
    starts: Ints | None = None,
) -> tuple[Component, dict[str, Arrays], Block]:
    """One block through the chain up to the component ``name``, from the first window or from ``before``."""
    config = model.network_config
    windows, series = values.shape
    out = Outputs.empty(len(config.quantiles), len(model.members), windows, series, config.horizon)
    for array in out:
        array[:] = np.nan
    past = (values % 7.0)[:, :, None]
    block = Block(
        np.array([start]) if starts is None else starts, values, HALF_DAY, lengths, past=past, out=out
    )
    block = block_knowing(model, [str(s) for s in range(series)], block)
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


def added(block: Block) -> Arrays:
    """What the components have put into a block, windows on axis 0 and series on axis 1."""
    found: Arrays = {
        place.name: getattr(block, place.name)
        for place in fields(Block)
        if place.name
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
            "known",
        )
    }
    found = {place: array for place, array in found.items() if array.size}
    if block.history.size:
        found["history"] = block.history[-len(block.values) :]
    for place, array in block.out._asdict().items():
        found[place] = np.moveaxis(array, 0, -1)
    found["shape"] = np.moveaxis(block.shape, 1, -1) if block.shape.size else np.empty((len(block.values), 0))
    members = {place: np.moveaxis(array, 0, -1) for place, array in block.members.items()}
    if block.residuals.size:
        found["residuals"] = np.moveaxis(block.residuals, 1, -1)
    return {place: array for place, array in (found | members).items() if array.size}


@every
def test_what_init_and_step_give_is_what_the_spec_says(name: str, cell: str) -> None:
    component, after, _ = run(model_of(cell), name, fleet())
    for arrays in (component.init(SERIES), after[name]):
        assert arrays.keys() == component.spec().keys()
        for field, (dtype, shape) in component.spec().items():
            assert arrays[field].dtype == dtype, field
            assert arrays[field].shape == (SERIES, *shape), field


@every
def test_its_format_version_is_known_to_the_table(name: str, cell: str) -> None:
    component, _, _ = run(model_of(cell), name, fleet())
    assert FORMAT_VERSIONS[name] == component.format_version


@every
def test_series_that_have_seen_nothing_share_no_memory_with_others_or_with_the_weights(
    name: str, cell: str
) -> None:
    component, _, _ = run(model_of(cell), name, fleet())
    for series in (1, 3):
        clean = {field: array.copy() for field, array in component.init(series).items()}
        for array in component.init(series).values():
            array[...] = 7
        assert_close(component.init(series), clean)


@every
def test_a_state_of_it_comes_back_from_bytes_as_it_was(name: str, cell: str) -> None:
    model = model_of(cell)
    _, after, _ = run(model, name, fleet())
    blank = model.unseen(tuple("abcd"), START)
    state = replace(blank, parts={**blank.parts, **after})
    again = State.from_bytes(state.to_bytes()).parts[name]
    for field, array in after[name].items():
        np.testing.assert_array_equal(again[field], array, strict=True)
        assert again[field].flags.writeable


@every
def test_series_can_be_taken_joined_and_put(name: str, cell: str) -> None:
    model = model_of(cell)
    _, after, _ = run(model, name, fleet())
    blank = model.unseen(tuple("abcd"), START)
    state = replace(blank, parts={**blank.parts, **after})
    first, rest = state.take(np.array([2])), state.take(np.array([3, 0, 1]))
    joined = State.join([first, rest])
    assert joined.series_ids == ("c", "d", "a", "b")
    blank.put(np.array([2, 3, 0, 1]), joined)
    for field, array in after[name].items():
        np.testing.assert_array_equal(joined.parts[name][field], array[[2, 3, 0, 1]])
        np.testing.assert_array_equal(blank.parts[name][field], array)


@every
@pytest.mark.parametrize("cut", [1, 5, 10])
def test_windows_in_one_block_are_windows_one_by_one(name: str, cell: str, cut: int) -> None:
    model, values = model_of(cell), fleet()
    last = model.components[-1].name
    _, whole, block = run(model, last, values)
    before, parts = None, []
    bounds = [0, cut, WINDOWS] if cut > 1 else list(range(WINDOWS + 1))
    for first, stop in pairwise(bounds):
        _, before, part = run(model, last, values[first:stop], START + first, before)
        parts.append(added(part))
    assert before is not None
    assert_close(whole[name], before[name])
    assert_close(added(block), {place: np.concatenate([p[place] for p in parts]) for place in parts[0]})


@every
def test_a_series_is_stepped_alone_as_in_company(name: str, cell: str) -> None:
    model, values = model_of(cell), fleet()
    _, together, block = run(model, name, values)
    for s in range(SERIES):
        _, alone, own = run(model, name, values[:, [s]])
        assert_close({f: a[[s]] for f, a in together[name].items()}, alone[name])
        assert_close({place: a[:, [s]] for place, a in added(block).items()}, added(own))


@every
def test_what_is_written_for_one_series_is_seen_by_no_other(name: str, cell: str) -> None:
    model, values = model_of(cell), fleet()
    other = values.copy()
    other[:, 1] = 1e6 * np.random.default_rng(5).normal(size=WINDOWS)
    _, one, block = run(model, name, values)
    _, two, changed = run(model, name, other)
    rest = np.array([0, 2, 3])
    for field, array in one[name].items():
        np.testing.assert_array_equal(array[rest], two[name][field][rest], err_msg=field)
    for place, array in added(block).items():
        np.testing.assert_array_equal(array[:, rest], added(changed)[place][:, rest], err_msg=place)


@every
def test_series_that_begin_at_windows_of_their_own_are_stepped_as_each_alone(name: str, cell: str) -> None:
    model, values = model_of(cell), fleet()
    lengths = np.array([WINDOWS, 3, 1, 9])
    starts = START + np.array([0, 50, 7, 2])
    padded = np.where(np.arange(WINDOWS)[:, None] < lengths, values, np.nan)
    _, together, block = run(model, name, padded, lengths=lengths, starts=starts)
    for s, length in enumerate(lengths):
        _, alone, own = run(model, name, values[:length, [s]], int(starts[s]))
        assert_close({f: a[[s]] for f, a in together[name].items()}, alone[name])
        assert_close({place: a[:length, [s]] for place, a in added(block).items()}, added(own))


@every
@pytest.mark.parametrize("value", [np.nan, 0.0, 1e9, -1e-9])
def test_whatever_comes_in_what_is_kept_and_forecast_is_finite(name: str, cell: str, value: float) -> None:
    values = fleet()
    values[5:, :] = value
    _, after, block = run(model_of(cell), name, values)
    for field, array in after[name].items():
        known = array[~np.isnan(array)] if (name, field) in MISSING else array
        assert np.isfinite(known).all(), field
    if name == "network":
        assert np.isfinite(block.out.forecast).all()
