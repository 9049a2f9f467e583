"""Ignore library warnings that no user can act on, by filters that stay for the life of the process.

``warnings.catch_warnings`` is not safe here: it replaces and later restores the filters of the whole process,
so of two threads, the one that leaves last can restore the filters that the other had set, for good.
"""

from __future__ import annotations

import re
import warnings


def ignore(*, message: str = "", module: str = "") -> None:
    """Ignore warnings in all threads from now on; a filter that is there already is not added again.

    Args:
        message: regular expression that the beginning of the warning's text matches.
        module: regular expression that the beginning of the warning's module name matches.
    """
    matched = tuple(
        re.compile(text, flags) if text else None for text, flags in ((message, re.I), (module, 0))
    )
    if ("ignore", matched[0], Warning, matched[1], 0) not in warnings.filters:
        warnings.filterwarnings("ignore", message=message, module=module)
