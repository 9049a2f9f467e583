"""The command ``statecast quarantine show``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.storage import location

if TYPE_CHECKING:
    import polars as pl

HELP = (
    "Show the rows of the input that a job has rejected.\n\n"
    "A job writes each row that it cannot use into the `quarantine` folder of its output folder, with the "
    "place of the row and the reason."
)


def show(
    output: o.OutputOfJob,
    examples: Annotated[
        int, typer.Option(metavar="N", help="Number of example rows to show for each kind of fault.", min=0)
    ] = 3,
    as_json: o.Json = False,
) -> None:
    """Show how many rows a job has quarantined, by the kind of their fault, with examples.

    The job may be running: the rows that it has written so far are shown.

    Example: statecast quarantine show out
    """
    from pipelines.dashboard.output_view import check_output
    from pipelines.sinks.files import read_quarantine

    out, folder = Out(as_json), location(output)
    check_output(folder)
    kinds = by_kind(read_quarantine(folder), examples)
    if not kinds:
        out.say(f"{output}: no row is quarantined")
    for kind in kinds:
        rows = "1 row" if kind["rows"] == 1 else f"{kind['rows']:,} rows"
        out.say(f"{rows}: {kind['kind']}", "yellow")
        for row in kind["examples"]:
            place = f"row {row['row']:,}" if row["row"] else "whole file"
            out.say(f"  {row['file'] or 'no file'}, {place}: {row['reason']}")
            if row["raw"]:
                out.say(f"    {row['raw']}")
    out.result({"quarantined": sum(kind["rows"] for kind in kinds), "kinds": kinds})


def by_kind(rows: pl.DataFrame, examples: int) -> list[dict[str, Any]]:
    """Return the kinds of faults, the most frequent first: ``kind``, ``rows`` and ``examples``.

    Args:
        rows: quarantined rows (``schemas.quarantine``).
        examples: the most examples of a kind, as dicts with ``file``, ``row``, ``column``, ``reason`` and
            ``raw``.
    """
    import polars as pl

    from schemas import quarantine

    found = []
    named = rows.with_columns(pl.col("kind").fill_null(quarantine.OTHER))  # early versions wrote no kind
    for (kind,), part in named.group_by("kind", maintain_order=True):
        # Show rows with different reasons, because the first rows of a file often have the same fault.
        varied = part.unique("reason", keep="first", maintain_order=True)
        shown = varied.head(examples).select("file", "row", "column", "reason", "raw").to_dicts()
        found.append({"kind": kind, "rows": len(part), "examples": shown})
    return sorted(found, key=lambda one: -one["rows"])
