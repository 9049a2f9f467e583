"""Make text of users safe for figures: names of series, labels and folders can contain any character."""

from __future__ import annotations

import unicodedata

from forecaster import warning_filters

_LONGEST = 80
# Matplotlib cannot draw characters of these Unicode categories: control characters, surrogates, line
# separators and paragraph separators.
_UNDRAWABLE = ("Cc", "Cs", "Zl", "Zp")


def plain(text: str) -> str:
    """Return ``text``, cut to 80 characters, in the form that Matplotlib draws as plain text on one line.

    Matplotlib reads text between two dollar signs as a formula, and raises an error for an invalid formula
    when the figure is saved. It leaves names that begin with an underscore out of legends: such a name gets a
    space before it.
    """
    # Ignore Matplotlib's warning about a letter that the font does not have: a box in its place is enough.
    warning_filters.ignore(message="Glyph .* missing from")
    shown = "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in _UNDRAWABLE else c for c in text
    )
    shown = shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
    shown = f" {shown}" if shown.startswith("_") else shown
    return shown.replace("$", r"\$")
