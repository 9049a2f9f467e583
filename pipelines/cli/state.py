"""``statecast state``: what a state table holds, and a table as one file."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out, size_of
from pipelines.storage import location
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from pipelines.state.state_table import StateTable

HELP = (
    "Look at a state table, pack it into one file, unpack it elsewhere.\n\n"
    "A state table is the `state` folder of a backfill or a stream: what the network knows of every series, "
    "the rows that wait for their windows to close, and how far the input was read. A job starts from one "
    "with --state, and a stream goes on from its own with --resume."
)

_Folder = Annotated[
    str,
    typer.Argument(metavar="FOLDER", help="State table: the `state` folder of a job.", show_default=False),
]
_Force = Annotated[bool, typer.Option("--force", help="Replace what is there.", rich_help_panel=o.OUTPUT)]


def show(folder: _Folder, as_json: o.Json = False) -> None:
    """Say what a state table holds: series, model, place in the input, rows that wait, bytes, counts.

    A job may be running on it: its shards' last snapshots are what is shown.

    Example: statecast state show out/state
    """
    from rich.table import Table

    from pipelines.state import state_table

    out = Out(as_json)
    told = _told(folder, state_table.read(location(folder)))
    facts, places = Table.grid(padding=(0, 2)), Table(box=None, padding=(0, 2, 0, 0))
    for name, value in _facts(told):
        facts.add_row(name, value)
    for title in ("partition", "read up to row", "watermark"):
        places.add_column(title, justify="right" if title.startswith("read") else "left")
    for name, place in told["partitions"].items():
        rows, most = f"{place['offset']:,}", place["furthest"]
        ahead = f" (some shards {most:,})" if most != place["offset"] else ""
        places.add_row(name, rows + ahead, place["watermark"] or "none yet")
    out.console.print(facts)
    if told["partitions"]:
        out.say("")
        out.console.print(places)
    out.say("")
    out.console.print(_sizes(told))
    out.result(told)


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
    """Pack a state table into one Parquet file, a row a series.

    The file holds all that the table does, the manifests of its sources too: what is imported from it is the
    same table. Refused where the shards stand at different places of their input, as those of a job that was
    killed do: start that job again with --resume, and end it with Ctrl-C.

    Example: statecast state export out/state weather.parquet
    """
    from pipelines.sinks.folder import check_folder
    from pipelines.state.state_file import pack

    if file.exists() and not force:
        raise ConfigError(f"{file} is there already: name another file, or pass --force to replace it")
    check_folder(file.parent)
    out = Out(as_json)
    with out.progress("packing", "tables"):
        series = pack(location(folder), file)
    size_bytes = file.stat().st_size
    out.say(f"{file}: {series:,} series, {size_of(size_bytes)}; statecast state import unpacks it")
    out.result({"file": str(file), "series": series, "bytes": size_bytes})


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            parser=o.local_path, metavar="FILE", help="File that an export wrote.", show_default=False
        ),
    ],
    folder: Annotated[
        str,
        typer.Argument(metavar="FOLDER", help="Folder for the table; OUTPUT/state makes it a stream's own."),
    ],
    shards: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            metavar="N", min=1, help="Cut it into so many shards.", show_default="as many as there were"
        ),
    ] = None,
    force: _Force = False,
    as_json: o.Json = False,
) -> None:
    """Unpack a state table from the file that an export wrote.

    A job starts from it with --state FOLDER. Where FOLDER is OUTPUT/state, a stream into OUTPUT with --resume
    goes on exactly where the exported table stood, provided that it has the same input to read. Refused while
    a job is running there.

    Example: statecast state import weather.parquet out/state
    """
    from pipelines.sinks.folder import check_folder
    from pipelines.state import state_table
    from pipelines.state.state_file import unpack

    table = location(folder)
    check_folder(table)
    if state_table.exists(table):
        if not force:
            raise ConfigError(
                f"{folder} holds a state table: name another folder, or pass --force to replace it"
            )
    elif any(table.glob("*")):
        raise ConfigError(f"{folder} is not empty and no state table: name another folder")
    out = Out(as_json)
    with out.progress("unpacking", "tables"):
        series = unpack(file, table, shards)
    out.say(f"{folder}: {series:,} series; start from it with --state {folder}")
    out.result({"folder": folder, "series": series})


def _told(folder: str, table: StateTable) -> dict[str, Any]:
    """What a table holds, for a machine; times as ISO 8601, sizes in bytes."""
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
        "partitions": {name: _place(name, table) for name in sorted({n for s in shards for n in s.offsets})},
        "bytes_per_series": {name: round(size, 1) for name, size in state.bytes_by_component.items()},
        "bytes_of_a_series": round(state.bytes_per_series, 1),
        "counts": {**asdict(table.counts), "missing": table.counts.missing},
    }


def _place(partition: str, table: StateTable) -> dict[str, Any]:
    offsets = [s.offsets.get(partition, 0) for s in table.shards if partition in s.offsets or not s.keyed]
    marks = [us for s in table.shards if (us := s.watermarks.get(partition)) is not None]
    watermark = _iso(min(marks)) if marks else None
    return {"offset": min(offsets), "furthest": max(offsets), "watermark": watermark}


def _facts(told: dict[str, Any]) -> list[tuple[str, str]]:
    counts = told["counts"]
    where = ("used", "duplicates", "late", "pending")
    went = ", ".join(f"{counts[name]:,} {name}" for name in where)
    quarantined = sum(counts["quarantined"].values())
    return [
        ("table", f"{told['folder']}, shards: {told['shards']}"),
        ("model", told["model_version"]),
        ("series", f"{told['series']:,}, of them {told['live']:,} live"),
        ("closed until", told["closed_until"] or "no window yet"),
        ("rows that wait", f"{told['pending']:,}"),
        ("rows so far", f"{counts['rows_in']:,} in: {went}, {quarantined:,} quarantined"),
        ("windows", f"{counts['windows']:,}, series-steps: {counts['series_steps']:,}"),
    ]


def _sizes(told: dict[str, Any]) -> Table:
    from rich.table import Table

    sizes = Table(box=None, padding=(0, 2, 0, 0))
    sizes.add_column("component")
    sizes.add_column("bytes a series", justify="right")
    for name, size in told["bytes_per_series"].items():
        sizes.add_row(name, f"{size:,.0f}")
    sizes.add_row("all, with clocks", f"{told['bytes_of_a_series']:,.0f}")
    return sizes


def _iso(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat()
