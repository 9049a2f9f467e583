"""Tests of `compute_threads`, a context manager that changes the number of threads of torch."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from forecaster.threads import compute_threads


def test_compute_threads_restores_the_thread_count_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), compute_threads(before + 2):
        raise KeyError
    assert torch.get_num_threads() == before


def test_nested_compute_threads_restore_the_outer_thread_count() -> None:
    before = torch.get_num_threads()
    with compute_threads(before + 1):
        with compute_threads(before + 2):
            assert torch.get_num_threads() == before + 2
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_overlapping_uses_of_compute_threads_restore_the_thread_count() -> None:
    before = torch.get_num_threads()
    first, second = ExitStack(), ExitStack()
    first.enter_context(compute_threads(before + 1))
    second.enter_context(compute_threads(before + 2))
    first.close()
    assert torch.get_num_threads() == before + 2  # `second` has not been closed yet
    second.close()
    assert torch.get_num_threads() == before


def test_compute_threads_of_0_keeps_the_thread_count() -> None:
    before = torch.get_num_threads()
    with compute_threads(0):
        assert torch.get_num_threads() == before
