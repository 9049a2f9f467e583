"""Tests of saving and loading a forecaster, of its version, and of the errors for invalid models."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from forecaster.config import NetworkConfig
from forecaster.model import FILE_NAME, Forecaster
from forecaster.stepping.advance import advance
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from schemas.errors import ModelError
from tests.fleets import START, forecaster


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_forecaster_is_restored_from_bytes(cell: str) -> None:
    model = forecaster(cell, aggregate="sum", empty="zero", freq="15m")
    again = Forecaster.from_bytes(model.to_bytes())
    assert again.version == model.version
    assert again.network_config == model.network_config
    assert again.window_config == model.window_config
    fleet = Windows(("a",), START, np.arange(9.0)[:, None])
    one, other = (advance(m, m.initial_state(), fleet)[1] for m in (model, again))
    np.testing.assert_array_equal(one.values, other.values)


def test_a_forecaster_is_restored_from_a_folder(tmp_path: Path) -> None:
    forecaster().save(tmp_path / "new" / "folder")
    assert Forecaster.load(tmp_path / "new" / "folder").version == forecaster().version


def test_the_model_version_depends_on_cell_type_and_weights() -> None:
    assert forecaster("gru").version.startswith("gru-")
    assert len(forecaster("gru").version) == len("gru-") + 12
    assert forecaster(seed=1).version != forecaster(seed=2).version
    same = [Forecaster.untrained(NetworkConfig(hidden=4), WindowConfig(), seed=3) for _ in range(2)]
    assert same[0].version == same[1].version


def test_window_settings_and_network_buffers_change_the_model_version() -> None:
    config = NetworkConfig(hidden=8, layers=1, horizon=2)
    made = [
        Forecaster.untrained(config, windows, seed=3) for windows in (WindowConfig(), WindowConfig(max_gap=5))
    ]
    assert made[0].version != made[1].version
    assert Forecaster.from_bytes(made[1].to_bytes()).window_config.max_gap == 5
    network = Forecaster.from_bytes(made[0].to_bytes()).network
    network.prior.fill_(0.5)
    other = Forecaster(config, WindowConfig(), network)
    assert other.version != made[0].version
    assert float(Forecaster.from_bytes(other.to_bytes()).network.prior) == 0.5


def test_a_ring_shorter_than_the_longest_lag_is_refused() -> None:
    assert NetworkConfig(lags=(1, 5), ring=5).ring == 5
    assert NetworkConfig(lags=(), ring=0).ring == 0
    for lags, ring in (((1, 5), 4), ((1,), 0)):
        with pytest.raises(ValueError, match="as long as the longest"):
            NetworkConfig(lags=lags, ring=ring)


def corrupted_bytes() -> dict[str, bytes]:
    data = forecaster().to_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])

    def with_header(changed: dict[str, object]) -> bytes:
        text = json.dumps(changed).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + size :]

    config = json.loads(header["__metadata__"]["config"])
    wider = {**config, "network": {**config["network"], "hidden": 9}}
    first = {name: part for name, part in config.items() if name != "format"}
    older = {**config, "format": 2}
    unknown = {**config, "network": {**config["network"], "cell": "transformer"}}
    renamed = {("head.w" if name == "head.weight" else name): part for name, part in header.items()}
    return {
        "nothing": b"",
        "half": data[: len(data) // 2],
        "text": b"these are no weights, whatever the name of the file says",
        "the first format": with_header({**header, "__metadata__": {"config": json.dumps(first)}}),
        "an older format": with_header({**header, "__metadata__": {"config": json.dumps(older)}}),
        "another width": with_header({**header, "__metadata__": {"config": json.dumps(wider)}}),
        "another cell": with_header({**header, "__metadata__": {"config": json.dumps(unknown)}}),
        "no settings": with_header({k: v for k, v in header.items() if k != "__metadata__"}),
        "settings of no JSON": with_header({**header, "__metadata__": {"config": "{"}}),
        "a weight renamed": with_header(renamed),
    }


@pytest.mark.parametrize("kind", sorted(corrupted_bytes()))
def test_corrupted_forecaster_bytes_raise_a_one_line_error(kind: str, tmp_path: Path) -> None:
    data = corrupted_bytes()[kind]
    with pytest.raises(ModelError, match="no forecaster") as error:
        Forecaster.from_bytes(data)
    assert "\n" not in str(error.value)
    (tmp_path / FILE_NAME).write_bytes(data)
    with pytest.raises(ModelError, match=FILE_NAME) as error:
        Forecaster.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("kind", "number"), [("the first format", 1), ("an older format", 2)])
def test_the_error_for_an_older_model_format_names_the_format(kind: str, number: int) -> None:
    message = f"the model has format {number}, and this version reads 3: train the model anew"
    with pytest.raises(ModelError, match=message):
        Forecaster.from_bytes(corrupted_bytes()[kind])


def test_loading_an_empty_folder_names_the_missing_forecaster_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"{tmp_path.name}/{FILE_NAME} cannot be read: No such file"):
        Forecaster.load(tmp_path)


def test_the_initial_state_of_a_forecaster_has_no_series() -> None:
    state = forecaster().initial_state()
    assert len(state) == 0
    assert state.model_version == forecaster().version
    assert state.parts["network"]["hidden"].shape == (0, 2, 8)
