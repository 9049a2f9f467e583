"""Import the modules of a package when their names are first used, because some take seconds to import."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, module_of: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package, which imports a public name when it is first used.

    Args:
        package: the ``__name__`` of the package.
        module_of: public name -> its module, relative to the package.
    """

    def imported(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{module_of[name]}"), name)
        # Store the value, so that the next use of the name does not call this function again.
        setattr(sys.modules[package], name, value)
        return value

    return imported
