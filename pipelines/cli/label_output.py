"""Print the result of ``statecast label`` on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from pipelines.cli.console import Out

if TYPE_CHECKING:
    from pipelines.labelling.job import LabelOutcome


def show_labelling(out: Out, found: LabelOutcome) -> None:
    """Print the counts of rows of a labelling, the size of its data, its training, and its scores."""
    for line in found.notices:
        out.notice(line)
    unlabelled = f", {found.unlabelled:,} of them without a label" if found.unlabelled else ""
    out.say(
        f"{found.rows_in:,} rows in = {found.used:,} used{unlabelled} + {found.quarantined:,} quarantined "
        f"+ {found.duplicates:,} duplicate"
    )
    more = ", ..." if len(found.channels) > 6 else ""
    values = f"{len(found.channels)} values a step ({', '.join(found.channels[:6])}{more})"
    if found.of == "sequence":
        out.say(f"a label per series: {found.series:,} series of up to {found.steps:,} steps, {values}")
    else:
        out.say(
            f"a label per step of {found.freq_s} s: {found.series:,} series of up to {found.steps:,} steps, "
            f"{values}; the label of ordinary steps is {found.background}"
        )
    seconds = sum(epoch["seconds"] for epoch in found.history)
    out.say(f"{len(found.classes)} labels; {len(found.history)} epochs in {seconds:.0f} s")
    table = Table("score", found.scored_part)
    for key, score in found.scores.items():
        table.add_row(key.replace("_", " "), f"{score:.3f}")
    out.console.print(table)
    if found.kinds:
        kinds = Table("anomaly", "found at one false alarm a series and week", "of")
        for row in found.kinds:
            kinds.add_row(row["label"], f"{row['found']:,}", f"{row['of']:,}")
        out.console.print(kinds)
