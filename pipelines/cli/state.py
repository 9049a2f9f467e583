"""The commands ``statecast state``: show a state table, and pack it into one file or unpack it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out, size_text
from pipelines.storage import location
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from pipelines.state.state_table import StateTable

HELP = (
    "Show a state table, pack it into one file, or unpack it elsewhere.\n\n"
    "A state table is the `state` folder of a backfill or a stream. It holds the state of every series, the "
    "rows of windows that are still open, and how far the input was read. A job starts from a state table "
    "with --state, and a stream resumes from its own with --resume."
)

_Folder = Annotated[
    str,
    typer.Argument(metavar="FOLDER", help="State table: the `state` folder of a job.", show_default=False),
]
_Force = Annotated[
    bool, typer.Option("--force", help="Replace an existing file or table.", rich_help_panel=o.OUTPUT)
]


def show(folder: _Folder, as_json: o.Json = False) -> None:
    """Show the contents of a state table.

    The output has the series, the model, the offsets, the pending rows, the size of the state, and
    counts of rows.

    A job may be running on the table: the last snapshots of its shards are shown.

    Example: statecast state show out/state
    """
    from rich.table import Table

    from pipelines.state import state_table

    out = Out(as_json)
    summary = _summary(folder, state_table.read(location(folder)))
    facts, places = Table.grid(padding=(0, 2)), Table(box=None, padding=(0, 2, 0, 0))
    for name, value in _facts(summary):
        facts.add_row(name, value)
    for title in ("partition", "read up to row", "watermark"):
        places.add_column(title, justify="right" if title.startswith("read") else "left")
    for name, place in summary["partitions"].items():
        rows, most = f"{place['offset']:,}", place["furthest"]
        furthest = f" (some shards {most:,})" if most != place["offset"] else ""
        places.add_row(name, rows + furthest, place["watermark"] or "none yet")
    out.console.print(facts)
    if summary["partitions"]:
        out.say("")
        out.console.print(places)
    out.say("")
    out.console.print(_sizes(summary))
    out.result(summary)


def export(
    folder: _Folder,
    file: Annotated[
        Path,
        typer.Argument(
            parser=o.local_path, metavar="FILE", help="Parquet file to write.", show_default=False
        ),
    ],
    force: _Force = False,
    as_json: o.Json = False,
) -> None:
    """Pack a state table into one Parquet file, with a row for each series.

    The file holds everything in the table, the manifests of its sources too, so that an import restores the
    same table. A table whose shards have read their input to different offsets is refused. A killed job
    leaves such a table: start that job again with --resume, and end it with Ctrl-C.

    Example: statecast state export out/state weather.parquet
    """
    from pipelines.state.state_file import pack
    from pipelines.storage import store_of

    if file.exists() and not force:
        raise ConfigError(f"{file} already exists: name another file, or give --force to replace it")
    store_of(file.parent).check_writable()
    out = Out(as_json)
    with out.progress("packing", "tables"):
        series = pack(location(folder), file)
    size_bytes = file.stat().st_size
    out.say(f"{file}: {series:,} series, {size_text(size_bytes)}; statecast state import unpacks it")
    out.result({"file": str(file), "series": series, "bytes": size_bytes})


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            parser=o.local_path, metavar="FILE", help="File that state export wrote.", show_default=False
        ),
    ],
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="Folder for the table; a stream into OUTPUT can resume from OUTPUT/state."
        ),
    ],
    shards: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Number of shards of the table.", show_default="as many as before"
        ),
    ] = None,
    force: _Force = False,
    as_json: o.Json = False,
) -> None:
    """Unpack a state table from a file that statecast state export wrote.

    A job starts from the table with --state FOLDER. If FOLDER is OUTPUT/state, a stream into OUTPUT with
    --resume continues at the offsets of the exported table, provided that it reads the same input. The import
    is refused while a job is running there.

    Example: statecast state import weather.parquet out/state
    """
    from pipelines.state import state_table
    from pipelines.state.state_file import unpack
    from pipelines.storage import store_of

    table = location(folder)
    store_of(table).check_writable()
    if state_table.exists(table):
        if not force:
            raise ConfigError(
                f"{folder} holds a state table: name another folder, or give --force to replace it"
            )
    elif any(table.glob("*")):
        raise ConfigError(f"{folder} is not empty and holds no state table: name another folder")
    out = Out(as_json)
    with out.progress("unpacking", "tables"):
        series = unpack(file, table, shards)
    out.say(f"{folder}: {series:,} series; start from it with --state {folder}")
    out.result({"folder": folder, "series": series})


def _summary(folder: str, table: StateTable) -> dict[str, Any]:
    """Return a summary of a state table as JSON values, with times as ISO 8601 text and sizes in bytes."""
    from forecaster.state import live

    shards = table.shards
    states = [shard.state for shard in shards]
    state, closed = max(states, key=len), table.closed_through
    return {
        "folder": folder,
        "shards": len(shards),
        "series": sum(map(len, states)),
        "live": sum(int(live(state).sum()) for state in states),
        "model_version": state.model_version,
        "freq": str(state.freq),
        "freq_s": state.freq.nominal_s,
        "closed_until": None if closed is None else _iso(state.freq.end_us(closed)),
        "pending": sum(len(shard.pending) for shard in shards),
        "partitions": {
            name: _progress(name, table) for name in sorted({n for s in shards for n in s.offsets})
        },
        "bytes_per_series": {name: round(size, 1) for name, size in state.bytes_by_component.items()},
        "bytes_of_a_series": round(state.bytes_per_series, 1),
        "counts": {**table.counts.as_json(), "missing": table.counts.missing},
    }


def _progress(partition: str, table: StateTable) -> dict[str, Any]:
    """Return the smallest and largest offset, and the smallest watermark, of the shards in a partition."""
    offsets = [s.offsets.get(partition, 0) for s in table.shards if partition in s.offsets or not s.keyed]
    marks = [us for s in table.shards if (us := s.watermarks.get(partition)) is not None]
    watermark = _iso(min(marks)) if marks else None
    return {"offset": min(offsets), "furthest": max(offsets), "watermark": watermark}


def _facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines to print about a state table, each as a name and a text."""
    counts = summary["counts"]
    where = ("used", "duplicates", "late", "pending")
    went = ", ".join(f"{counts[name]:,} {name}" for name in where)
    quarantined = sum(counts["quarantined"].values())
    again = f", {counts['replayed']:,} read again from quarantine" if counts.get("replayed") else ""
    return [
        ("table", f"{summary['folder']}, shards: {summary['shards']}"),
        ("model", summary["model_version"]),
        ("series", f"{summary['series']:,}, of them {summary['live']:,} live"),
        ("closed until", summary["closed_until"] or "no window yet"),
        ("pending rows", f"{summary['pending']:,}"),
        ("rows so far", f"{counts['rows_in']:,} in{again}: {went}, {quarantined:,} quarantined"),
        ("windows", f"{counts['windows']:,}, series-steps: {counts['series_steps']:,}"),
    ]


def _sizes(summary: dict[str, Any]) -> Table:
    """Return a table of the bytes that each component stores for a series."""
    from rich.table import Table

    sizes = Table(box=None, padding=(0, 2, 0, 0))
    sizes.add_column("component")
    sizes.add_column("bytes a series", justify="right")
    for name, size in summary["bytes_per_series"].items():
        sizes.add_row(name, f"{size:,.0f}")
    sizes.add_row("all, with clocks", f"{summary['bytes_of_a_series']:,.0f}")
    return sizes


def _iso(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat()
