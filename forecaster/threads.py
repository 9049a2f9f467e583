"""Set the number of threads of torch and NumPy for a block of code, and restore it after the block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from threadpoolctl import ThreadpoolController


@dataclass
class _Counts:
    """The numbers of threads of torch and of each loaded BLAS library."""

    torch: int
    blas: list[tuple[Any, int]]

    @staticmethod
    def now() -> _Counts:
        libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        return _Counts(torch.get_num_threads(), [(library, library.num_threads) for library in libraries])

    def apply(self) -> None:
        torch.set_num_threads(self.torch)
        for library, count in self.blas:
            library.set_num_threads(count)


@dataclass
class _OpenBlock:
    """An open block of `compute_threads`, and the numbers of threads to restore after it."""

    before: _Counts


_lock = threading.Lock()
_open: list[_OpenBlock] = []  # blocks of code in `compute_threads` that have not ended, oldest first


@contextmanager
def compute_threads(count: int) -> Iterator[None]:
    """Let torch, and the BLAS that NumPy calls, compute with ``count`` threads inside the block.

    The counts belong to the process. The end of the last open block restores the counts from before the first
    block, also after an error, and also if blocks of several threads overlap. 0 does not change the counts.

    One thread is the default everywhere: threads wait for work by spinning, so beside other busy processes a
    training with two threads takes many times as long, and alone it is faster with one unless the network is
    large (``python -m benchmarks.fairness``).
    """
    with _lock:
        block = _OpenBlock(_Counts.now())
        _open.append(block)
        if count:
            _Counts(count, [(library, count) for library, _ in block.before.blas]).apply()
    try:
        yield
    finally:
        with _lock:
            place = next(i for i, other in enumerate(_open) if other is block)
            if block is _open[-1]:
                block.before.apply()
            else:
                # A later block of code has not ended, so do not restore the counts yet: the block that began
                # next restores them at its end, or passes them on in the same way.
                _open[place + 1].before = block.before
            del _open[place]
