"""Loads a logged model and asks it as a fresh environment would: ``serve_alone.py MODEL ASKED ANSWERED``.

Python then has the packages that the model's requirements name, and those that these require, and no others:
Statecast itself must come from the model's own folder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def required(lines: Sequence[str]) -> set[str]:
    """Names of the packages that an installer would bring for these requirements."""
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
        except PackageNotFoundError:  # for another machine or Python than this
            continue
        names.add(canonicalize_name(one.name))
        extras = (*one.extras, "")
        todo += [r for r in further if not r.marker or any(r.marker.evaluate({"extra": e}) for e in extras)]
    return names


class Only:
    """Refuses to import what no allowed package holds."""

    def __init__(self, allowed: set[str]) -> None:
        self.allowed = allowed
        self.owners = packages_distributions()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Python's hook: None lets the next finder look."""
        # Where ours comes from is seen to below.
        owners = {canonicalize_name(owner) for owner in self.owners.get(name, ())} - {"statecast"}
        if owners and not owners & self.allowed:
            raise ModuleNotFoundError(f"no requirement of the model brings {name}", name=name)


def main(model: Path, asked: Path, answered: Path) -> None:
    """Answers a Parquet file of history by one of forecasts."""
    sys.path = [place for place in sys.path if not (Path(place) / "forecaster" / "serving.py").exists()]
    sys.meta_path.insert(0, Only(required((model / "requirements.txt").read_text().splitlines())))
    import polars as pl
    from mlflow import pyfunc

    pyfunc.load_model(str(model)).predict(pl.read_parquet(asked).to_pandas()).to_parquet(answered)
    import forecaster
    import schemas

    for ours in (forecaster, schemas):
        assert Path(str(ours.__file__)).is_relative_to(model), ours.__file__


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
