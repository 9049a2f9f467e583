"""Print a measured value beside its target."""

from __future__ import annotations

_MET = {
    "at least": lambda value, target: value >= target,
    "at most": lambda value, target: value <= target,
    "below": lambda value, target: value < target,
    "within": lambda value, target: abs(value) <= target,
}


def line(name: str, value: float, relation: str, target: float) -> None:
    """Print a value, its target and whether the target is met.

    ``relation`` is "at least", "at most", "below" or "within".
    """
    met = "met" if _MET[relation](value, target) else "MISSED"
    print(f"  {name:<32}{value:>10.2f}   {relation} {target:g}: {met}", flush=True)
