"""Add filters that ignore library warnings that no user can act on; they stay until the process ends.

``warnings.catch_warnings`` is not safe here. It replaces the filters of the whole process and later restores
them: if two threads use it, the one that leaves last can permanently restore filters that the other had set.
"""

from __future__ import annotations

import re
import warnings


def ignore(*, message: str = "", module: str = "") -> None:
    """Ignore warnings in all threads from now on; a filter that exists already is not added again.

    Args:
        message: regular expression that must match the beginning of the warning's text.
        module: regular expression that must match the beginning of the warning's module name.
    """
    matched = tuple(
        re.compile(text, flags) if text else None for text, flags in ((message, re.I), (module, 0))
    )
    if ("ignore", matched[0], Warning, matched[1], 0) not in warnings.filters:
        warnings.filterwarnings("ignore", message=message, module=module)
