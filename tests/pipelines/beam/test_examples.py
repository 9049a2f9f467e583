"""Run the examples in the docstrings of the Beam transforms."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from pipelines import beam


@pytest.mark.parametrize("name", beam.__all__)
def test_the_docstring_example_of_a_beam_transform_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    transform = getattr(beam, name)
    module = importlib.import_module(transform.__module__)
    tests = doctest.DocTestFinder(recurse=False).find(transform, name, module, globs={})
    runner = doctest.DocTestRunner()
    attempted = sum(runner.run(test).attempted for test in tests)
    assert attempted
    assert not runner.failures
