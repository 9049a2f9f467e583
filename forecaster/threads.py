"""How many threads torch and NumPy compute with: taken for a while, and given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def compute_threads(count: int) -> Iterator[None]:
    """Torch, and the BLAS that NumPy calls, compute with ``count`` threads inside the block.

    After it they do with as many as before: the counts belong to the process, and whoever calls a job of ours
    must find theirs again, whatever the job's end was. 0 leaves them as they are. The threads of a BLAS wait
    for work by spinning, so where shards are stepped side by side they would take cores from one another.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        with threadpool_limits(limits=count or None, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
