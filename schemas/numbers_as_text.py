"""Write numbers as short text for reports."""

from __future__ import annotations


def text_of(number: float) -> str:
    """Return a number as short text, with three decimals or with few significant digits.

    If the absolute value is 1000 or more, the text has at most four significant digits. If it is below
    0.001, but not 0, the text has one significant digit. Every other number has three decimals.

    Examples: 0.338, 37.125, 3.787e+07, 2e-05.
    """
    size = abs(number)
    if size and size < 0.001:
        return f"{number:.0e}"
    return f"{number:.3f}" if size < 1000 else f"{number:.4g}"
