"""Rewrite text such as ``1.234,5``, ``1,234 USD`` and ``12 %`` as plain numbers with decimal points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from schemas.errors import DataError

_GROUPS = "'’ \u00a0\u202f"  # separators of thousands in numbers of both styles; see `_Style`
_SIGN = r"^\s*[+-]?"


@dataclass(frozen=True)
class _Style:
    """Patterns for numbers in one of two styles: with decimal points, or with decimal commas."""

    decimal: str
    group: str

    @property
    def _grouped(self) -> str:
        return rf"[1-9]\d{{0,2}}(?:[{_GROUPS}\{self.group}]\d{{3}})"

    @property
    def number(self) -> str:
        """The pattern of a number in this style that has a decimal sign or separators of thousands."""
        decimals = rf"\{self.decimal}\d+(?:[eE][+-]?\d+)?"
        return rf"{_SIGN}(?:\d+{decimals}|{self._grouped}+(?:{decimals})?)\s*$"

    @property
    def sure(self) -> str:
        """The pattern of numbers that are valid only in this style, such as ``1.5`` with decimal points."""
        decimal, group = rf"\{self.decimal}", rf"\{self.group}"
        not_three = rf"(?:0|[1-9]\d{{3,}}|0\d+){decimal}\d+|\d+{decimal}(?:\d{{1,2}}|\d{{4,}})"
        groups = rf"[1-9]\d{{0,2}}(?:{group}\d{{3}}){{2,}}|{self._grouped}+{decimal}\d+"
        return rf"{_SIGN}(?:{not_three}|{groups})(?:[eE][+-]?\d+)?\s*$"

    @property
    def unsure(self) -> str:
        """The pattern of an ambiguous number: ``1,234`` is 1.234 with decimal commas, 1234 with points."""
        return rf"{_SIGN}[1-9]\d{{0,2}}\{self.decimal}\d{{3}}\s*$"


_STYLES = {",": _Style(",", "."), ".": _Style(".", ",")}
_WHOLE = rf"{_SIGN}\d+\s*$"
_CURRENCY = r"\p{Sc}|USD|EUR|GBP|CHF|JPY|CNY|INR|AUD|CAD|SEK|NOK|DKK|PLN|CZK|kr|zł|Fr\.?"
_DIGITS = rf"\d[\d.,{_GROUPS}]*(?:[eE][+-]?\d+)?"
_MARKED = rf"^\s*([+-]?)\s*(?:{_CURRENCY})?\s*([+-]?)\s*({_DIGITS})\s*(?:%|{_CURRENCY})?\s*$"
_IN_BRACKETS = rf"^\s*\(\s*(?:{_CURRENCY})?\s*({_DIGITS})\s*(?:%|{_CURRENCY})?\s*\)\s*$"
_MARKS = r"[%(\p{Sc}]|[A-Za-z.] \S|\S [A-Za-z]"
# In a file with decimal points, only numbers with one of these characters need to be rewritten.
_EXTRA = rf"[,{_GROUPS}%(\p{{Sc}}]"
# The characters of numbers that need no rewriting, and the line break between the cells that `_joined` joins.
_PLAIN = b"0123456789+-.eE\n"
_FEW = 100  # so many rows are searched first: one of them usually shows that the file has decimal points
NO_COMMA = " (no decimal comma)"
"""Text that is added to a number with a decimal point, in a file with decimal commas."""


class Decimals:
    """Finds the decimal sign of a text file while it is read, and rewrites its numbers with decimal points.

    The first number that is possible with one sign only (``1,5``, ``0,125``, ``1.234,5``) decides the sign of
    the file. Numbers before it were returned while the sign was not known. So `rewrite` raises if the sign
    changes the value of such an earlier number.
    """

    def __init__(self, path: Path, setting: str) -> None:
        """Set the decimal sign of one file, or leave it unknown until the file's numbers show it.

        Args:
            path: the file, which errors name.
            setting: decimal sign of the numbers, or ``auto`` to find the sign in the numbers.
        """
        self._path = path
        self._sign = "" if setting == "auto" else setting
        # A cell of an earlier frame such as 1.234: its value is 1234 if the file has decimal commas. It is
        # kept for the error that is raised if a later cell shows decimal commas. "" if there was none.
        self._ambiguous_cell = ""

    def rewrite(self, frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
        """Return a frame with the numbers in the named text columns rewritten with a decimal point.

        Currencies and percent signs are removed: ``12,5 %`` becomes 12.5. A number in brackets is negative,
        as accountants write it. A number with the other decimal sign becomes text that is not a number, so
        validation rejects its row.

        Raises:
            DataError: the decimal sign is ambiguous; the message names the setting.
        """
        texts = _joined(frame, names)
        extra = _matching({name: _odd_characters(text) for name, text in texts.items()}, _EXTRA)
        marked = _matching({name: texts[name] for name in extra}, _MARKS)
        if marked:
            frame = frame.with_columns(_without_marks(pl.col(name)) for name in marked)
        signed = [name for name, text in texts.items() if "." in text or "," in text]
        if signed and not self._sign:  # whole numbers do not depend on the decimal sign
            self._find_sign(pl.DataFrame([frame[name] for name in texts]))
        if self._sign == ",":
            return frame.with_columns(_with_commas(pl.col(name)) for name in {*extra, *signed})
        return frame.with_columns(_with_points(pl.col(name)) for name in extra) if extra else frame

    def _find_sign(self, cells: pl.DataFrame) -> None:
        columns = cells.get_columns()
        commas = _has_match(cells, _STYLES[","].sure)
        points = any(_has_match(part, _STYLES["."].sure) for part in (cells.head(_FEW), cells))
        if commas and points:
            # The less frequent sign counts as a typing error, so rows with this sign are quarantined later.
            counts = {
                sign: sum(int(c.str.contains(_STYLES[sign].sure).sum()) for c in columns) for sign in ",."
            }
            self._sign = max(counts, key=lambda sign: counts[sign])
        else:
            self._sign = "," if commas else "." if points else ""
        if self._sign == "," and self._ambiguous_cell:
            raise self._ambiguity_error(self._ambiguous_cell)
        if not self._sign:
            unsure_comma, unsure_point = (_first(columns, _STYLES[sign].unsure) for sign in ",.")
            whole = _has_match(cells, _WHOLE)
            if unsure_comma or (unsure_point and whole and _are_thousands(columns)):
                raise self._ambiguity_error(unsure_comma or unsure_point)
            self._ambiguous_cell = self._ambiguous_cell or unsure_point

    def _ambiguity_error(self, cell: str) -> DataError:
        return DataError(
            f"{self._path}: {cell.strip()!r} has either three decimals or a separator of thousands: set "
            "data.decimal = '.' or data.decimal = ','"
        )


def _joined(frame: pl.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """Return one text for each named column of type String: the cells of the column, one per line."""
    columns = pl.DataFrame([frame[name] for name in names if frame.schema[name] == pl.String])
    return columns.select(pl.all().str.join("\n")).row(0, named=True) if columns.width else {}


def _odd_characters(text: str) -> str:
    """Remove the characters of plain numbers from a text, so that `_matching` has less text to search."""
    return text.encode().translate(None, _PLAIN).decode()


def _matching(texts: dict[str, str], pattern: str) -> list[str]:
    """Return the keys of the texts that contain a match of a pattern; the keys are names of columns."""
    names = [name for name, text in texts.items() if text]
    if not names:
        return []
    found = pl.Series([texts[name] for name in names], dtype=pl.String).str.contains(pattern)
    return [name for name, is_found in zip(names, found, strict=True) if is_found]


def _has_match(cells: pl.DataFrame, pattern: str) -> bool:
    """Return whether any cell matches a pattern."""
    return bool(cells.select(pl.any_horizontal(pl.all().str.contains(pattern).any())).item())


def _first(columns: Iterable[pl.Series], pattern: str) -> str:
    for column in columns:
        found = column.filter(column.str.contains(pattern))
        if len(found):
            return str(found[0])
    return ""


def _are_thousands(columns: Iterable[pl.Series]) -> bool:
    """Return True if each whole number without a separator of thousands has an absolute value below 1,000.

    If so, ``1.234`` may mean 1,234: the cells have no larger number without a separator of thousands.
    """
    for column in columns:
        whole = column.filter(column.str.contains(_WHOLE)).str.strip_chars().cast(pl.Float64, strict=False)
        if (whole.abs() >= 1000).any():
            return False
    return True


def _without_marks(cell: pl.Expr) -> pl.Expr:
    return cell.str.replace(_IN_BRACKETS, "-${1}").str.replace(_MARKED, "${1}${2}${3}")


def _with_commas(cell: pl.Expr) -> pl.Expr:
    number = cell.str.replace_all(rf"[{_GROUPS}.]", "").str.replace(",", ".", literal=True)
    is_other = cell.str.contains(rf"{_SIGN}\d*\.\d+(?:[eE][+-]?\d+)?\s*$")
    return (
        pl.when(cell.str.contains(_STYLES[","].number)).then(number)
        .when(is_other).then(cell + NO_COMMA)
        .otherwise(cell)
    )  # fmt: skip


def _with_points(cell: pl.Expr) -> pl.Expr:
    number = cell.str.replace_all(rf"[{_GROUPS},]", "")
    return pl.when(cell.str.contains(_STYLES["."].number)).then(number).otherwise(cell)
