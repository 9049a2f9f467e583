"""Warnings of libraries that nobody here can act on, ignored by filters that stay.

``warnings.catch_warnings`` is no way to do it: it swaps the filters of the whole process and puts the old
ones back, so of two threads the one that leaves last can leave the filters of the other behind for good.
"""

from __future__ import annotations

import re
import warnings


def ignore(*, message: str = "", module: str = "") -> None:
    """Ignore warnings in all threads from now on; a filter that is there already is not added again.

    Args:
        message: regular expression of the beginning of their text.
        module: regular expression of the beginning of the module's name that they are attributed to.
    """
    matched = tuple(
        re.compile(text, flags) if text else None for text, flags in ((message, re.I), (module, 0))
    )
    if ("ignore", matched[0], Warning, matched[1], 0) not in warnings.filters:
        warnings.filterwarnings("ignore", message=message, module=module)
