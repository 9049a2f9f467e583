"""Let a package import a module only when a public name that the module defines is first used.

Some modules take seconds to import, so this makes the import of the package fast.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, module_of: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package: it imports a module at the first use of a name of that module.

    Python calls ``__getattr__`` with a name that the package does not have yet. The function imports the
    module that defines the name, and returns the object of that name.

    Args:
        package: the ``__name__`` of the package.
        module_of: for each public name, the module that defines the name, relative to the package.
    """

    def imported(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{module_of[name]}"), name)
        # Store the value in the package, so that Python finds it there at the next use of the name.
        setattr(sys.modules[package], name, value)
        return value

    return imported
