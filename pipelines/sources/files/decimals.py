"""Numbers as spreadsheets write them: with decimal commas, and with signs between thousands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from schemas.errors import DataError

_GROUPS = "'’ \u00a0\u202f"  # what separates thousands whatever the decimal sign is
_SIGN = r"^\s*[+-]?"


@dataclass(frozen=True)
class _Style:
    """Patterns of numbers with one decimal sign."""

    decimal: str
    group: str

    @property
    def _grouped(self) -> str:
        return rf"[1-9]\d{{0,2}}(?:[{_GROUPS}\{self.group}]\d{{3}})"

    @property
    def number(self) -> str:
        """A number that has at least one sign of this style in it."""
        decimals = rf"\{self.decimal}\d+(?:[eE][+-]?\d+)?"
        return rf"{_SIGN}(?:\d+{decimals}|{self._grouped}+(?:{decimals})?)\s*$"

    @property
    def sure(self) -> str:
        """A number that can be of no other style."""
        decimal, group = rf"\{self.decimal}", rf"\{self.group}"
        not_three = rf"(?:0|[1-9]\d{{3,}}|0\d+){decimal}\d+|\d+{decimal}(?:\d{{1,2}}|\d{{4,}})"
        groups = rf"[1-9]\d{{0,2}}(?:{group}\d{{3}}){{2,}}|{self._grouped}+{decimal}\d+"
        return rf"{_SIGN}(?:{not_three}|{groups})(?:[eE][+-]?\d+)?\s*$"

    @property
    def unsure(self) -> str:
        """A number with one of this style's decimal signs, which could be one of thousands in the other."""
        return rf"{_SIGN}[1-9]\d{{0,2}}\{self.decimal}\d{{3}}\s*$"


_STYLES = {",": _Style(",", "."), ".": _Style(".", ",")}
_WHOLE = rf"{_SIGN}\d+\s*$"
_MANY = 20


class Decimals:
    """The decimal sign of one text file, found from its cells as they are read, and cells rewritten by it.

    The sign is known from the first number that can have no other (``1,5``, ``0,125``, ``1.234,5``). Numbers
    before it, in earlier frames, must read alike whatever the sign is.
    """

    def __init__(self, path: Path, setting: str) -> None:
        """``setting`` is ``auto``, ``.`` or ``,``."""
        self._path = path
        self._sign = "" if setting == "auto" else setting
        self._unsure = ""  # a cell of an earlier frame that would read differently

    def rewrite(self, frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
        """The frame with numbers of the named text columns as a point and digits alone.

        A cell that is a number of the other sign becomes text that is no number.

        Raises:
            DataError: the decimal sign cannot be known; the line names the setting.
        """
        names = [name for name in names if frame.schema[name] == pl.String]
        if not self._sign:
            self._look(frame.select(names))
        if self._sign == ",":
            return frame.with_columns(_with_commas(pl.col(name)) for name in names)
        return frame.with_columns(_with_points(pl.col(name)) for name in names if _has_groups(frame[name]))

    def _look(self, cells: pl.DataFrame) -> None:
        columns = cells.get_columns()
        if not any(column.str.contains("[.,]").any() for column in columns):
            return  # whole numbers read alike
        commas, points = (_first(columns, _STYLES[sign].sure) for sign in ",.")
        if commas and points:
            # one of the two is a typing error, which quarantine keeps
            counts = {
                sign: sum(int(c.str.contains(_STYLES[sign].sure).sum()) for c in columns) for sign in ",."
            }
            self._sign = max(counts, key=lambda sign: counts[sign])
        else:
            self._sign = "," if commas else "." if points else ""
        unsure_comma, unsure_point = (_first(columns, _STYLES[sign].unsure) for sign in ",.")
        if self._sign == "," and self._unsure:
            raise self._refusal(self._unsure)
        if not self._sign:
            whole = any(c.str.contains(_WHOLE).any() for c in columns)
            if unsure_comma or (unsure_point and whole and _are_thousands(columns)):
                raise self._refusal(unsure_comma or unsure_point)
            self._unsure = self._unsure or unsure_point

    def _refusal(self, cell: str) -> DataError:
        return DataError(
            f"{self._path}: {cell.strip()!r} is either a number with three decimals or one of thousands: set "
            "data.decimal = '.' or data.decimal = ','"
        )


def _first(columns: Iterable[pl.Series], pattern: str) -> str:
    for column in columns:
        found = column.filter(column.str.contains(pattern))
        if len(found):
            return str(found[0])
    return ""


def _are_thousands(columns: Iterable[pl.Series]) -> bool:
    """Whether whole numbers stay below 1,000 as those do whose thousands are separated."""
    for column in columns:
        whole = column.filter(column.str.contains(_WHOLE)).str.strip_chars().cast(pl.Float64, strict=False)
        if (whole.abs() >= 1000).any():
            return False
    return True


def _has_groups(column: pl.Series) -> bool:
    return bool(column.str.contains(rf"[,{_GROUPS}]").any())


def _with_commas(cell: pl.Expr) -> pl.Expr:
    number = cell.str.replace_all(rf"[{_GROUPS}.]", "").str.replace(",", ".", literal=True)
    is_other = cell.str.contains(rf"{_SIGN}\d*\.\d+(?:[eE][+-]?\d+)?\s*$")
    return (
        pl.when(cell.str.contains(_STYLES[","].number)).then(number)
        .when(is_other).then(cell + " (no decimal comma)")
        .otherwise(cell)
    )  # fmt: skip


def _with_points(cell: pl.Expr) -> pl.Expr:
    number = cell.str.replace_all(rf"[{_GROUPS},]", "")
    return pl.when(cell.str.contains(_STYLES["."].number)).then(number).otherwise(cell)
