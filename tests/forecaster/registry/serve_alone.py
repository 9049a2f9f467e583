"""Program that calls a logged model as in a new environment: ``serve_alone.py MODEL HISTORY FORECASTS``.

It blocks imports of all packages except the model's requirements and the packages that these require.
Statecast itself must be imported from the model's folder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def required_packages(lines: Sequence[str]) -> set[str]:
    """Return the names of the packages that an installer would install for the requirements ``lines``."""
    names: set[str] = set()
    seen: set[str] = set()
    todo = [Requirement(line) for line in lines]
    while todo:
        one = todo.pop()
        if str(one) in seen:
            continue
        seen.add(str(one))
        try:
            further = [Requirement(line) for line in requires(one.name) or ()]
        except PackageNotFoundError:  # the package is for another platform or Python version
            continue
        names.add(canonicalize_name(one.name))
        extras = (*one.extras, "")
        todo += [r for r in further if not r.marker or any(r.marker.evaluate({"extra": e}) for e in extras)]
    return names


class ImportGuard:
    """Import hook that refuses modules of packages that are not allowed."""

    def __init__(self, allowed: set[str]) -> None:
        self.allowed = allowed
        self.owners = packages_distributions()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raise if only packages that are not allowed contain the module; otherwise return None.

        After None, the import continues with the next finder. A module of no package, such as ``json`` from
        the standard library, raises no error.

        Raises:
            ModuleNotFoundError: only packages that are not allowed contain the module.
        """
        # Modules of statecast are allowed; `main` checks that they were imported from the model's folder.
        owners = {canonicalize_name(owner) for owner in self.owners.get(name, ())} - {"statecast"}
        if owners and not owners & self.allowed:
            raise ModuleNotFoundError(f"no requirement of the model provides {name}", name=name)


def main(model: Path, history_path: Path, forecasts_path: Path) -> None:
    """Read a history from a Parquet file, call the model with it, and write the forecasts to another file."""
    sys.path = [place for place in sys.path if not (Path(place) / "forecaster" / "serving.py").exists()]
    sys.meta_path.insert(
        0, ImportGuard(required_packages((model / "requirements.txt").read_text().splitlines()))
    )
    import polars as pl
    from mlflow import pyfunc

    pyfunc.load_model(str(model)).predict(pl.read_parquet(history_path).to_pandas()).to_parquet(
        forecasts_path
    )
    import forecaster
    import schemas

    for ours in (forecaster, schemas):
        assert Path(str(ours.__file__)).is_relative_to(model), ours.__file__


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
