"""Text of users in figures: series, labels and folders may be named with any characters."""

from __future__ import annotations

import unicodedata

from forecaster import warning_filters

_LONGEST = 80
_UNDRAWABLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, surrogates, separators of lines and paragraphs


def plain(text: str) -> str:
    """Return text that Matplotlib draws letter by letter, on one line of at most 80 letters.

    Text between two dollar signs is a formula to Matplotlib, and one that it cannot parse raises an error
    when the figure is saved. What begins with an underscore is left out of legends.
    """
    # A letter without a shape in the font is drawn as a box, which needs no warning.
    warning_filters.ignore(message="Glyph .* missing from")
    shown = "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in _UNDRAWABLE else c for c in text
    )
    shown = shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
    shown = f" {shown}" if shown.startswith("_") else shown
    return shown.replace("$", r"\$")
