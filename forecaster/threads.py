"""How many threads torch computes with: taken for a while, and given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch computes with ``count`` threads inside the block, and with as many as before after it.

    Torch's count belongs to the process: whoever calls a job of ours must find theirs again, whatever the
    job's end was. 0 leaves it as it is.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
