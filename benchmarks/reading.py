"""Compare how fast this checkout and another checkout, such as an earlier version, read files.

``python -m benchmarks.reading FOLDER`` keeps one process of each checkout. Both read and validate the same
file, one right after the other, in an order that alternates, so other work on the machine affects both alike.
FOLDER needs its own environment (``make setup`` there). A ratio is the median over the rounds of (processor
seconds there / processor seconds here), so a ratio above 1 is faster here. The last line of standard output
is one JSON object.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks import machine
from benchmarks.targets import line

_LEAST_RATIO = 0.97
_SMALL_FILES = 200

# This program runs in both checkouts, so it calls only functions that both checkouts have.
# It prints the processor seconds and the number of rows of each read.
_WORKER = """
import sys, time
from pathlib import Path
from pipelines.sources.files.find_files import input_files
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input, read_file
for line in sys.stdin:
    began, rows = time.process_time(), 0
    for path in input_files([line.strip()]):
        rows += sum(len(part.rows) for part in read_file(path, Input(Columns()), 4e9))
    print(time.process_time() - began, rows, flush=True)
"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=__doc__)
    parser.add_argument("folder", type=Path, help="the other checkout, with its own .venv")
    parser.add_argument("--rows", type=int, default=500_000, help="rows of each input")
    parser.add_argument("--rounds", type=int, default=9, help="how often each input is read in each checkout")
    options = parser.parse_args(arguments)
    print(machine.described(), flush=True)
    with tempfile.TemporaryDirectory(prefix="statecast-bench-") as folder:
        inputs = _write_inputs(Path(folder), options.rows)
        here, there = _Reader(Path.cwd()), _Reader(options.folder.resolve())
        ratios: dict[str, list[float]] = {path.name: [] for path in inputs}
        for turn in range(options.rounds + 1):
            for path in inputs:
                order = (here, there) if turn % 2 == 0 else (there, here)
                found = {reader: reader.seconds(path, options.rows) for reader in order}
                if turn:  # the first round warms both processes and the disk cache up
                    ratios[path.name].append(found[there] / found[here])
                print(f"{path.name}: {found[here]:.3f} s here, {found[there]:.3f} s there", file=sys.stderr)
    medians = {name: statistics.median(several) for name, several in ratios.items()}
    print(f"\nspeed of reading here / in {options.folder}; medians of {options.rounds} rounds")
    for name, ratio in medians.items():
        line(name, ratio, "at least", _LEAST_RATIO)
    print(json.dumps({name: round(ratio, 3) for name, ratio in medians.items()}))
    return 0


class _Reader:
    """A process that reads files with the code of one checkout."""

    def __init__(self, checkout: Path) -> None:
        self._process = subprocess.Popen(
            [str(checkout / ".venv/bin/python"), "-c", _WORKER],
            cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def seconds(self, path: Path, rows: int) -> float:
        """Return the processor seconds of one read of a path, which must hold ``rows`` valid rows."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        seconds, found = self._process.stdout.readline().split()
        assert int(found) == rows, f"{path}: {found} rows were read, not {rows}"
        return float(seconds)


def _write_inputs(folder: Path, rows: int) -> list[Path]:
    rng, series = np.random.default_rng(0), 100
    hours = rows // series
    begin = datetime(2013, 1, 1)
    times = pl.datetime_range(begin, begin + timedelta(hours=hours - 1), "1h", time_zone="UTC", eager=True)
    frame = pl.DataFrame(
        {
            "series_id": np.repeat([f"sensor-{i}" for i in range(series)], hours),
            "timestamp": pl.concat([times] * series),
            "value": rng.normal(100, 30, hours * series).round(3),
        }
    )
    text = frame.with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    comma = text.with_columns(pl.col("value").cast(pl.String).str.replace(".", ",", literal=True))
    umlauts = text.with_columns(pl.col("series_id").str.replace("sensor", "Fühler"))
    wide = frame.pivot("series_id", index="timestamp", values="value")
    frame.write_parquet(folder / "rows.parquet")
    text.write_csv(folder / "rows.csv")
    umlauts.write_csv(folder / "umlauts.csv")
    comma.write_csv(folder / "comma.csv", separator=";")
    text.write_csv(folder / "quoted.csv", quote_style="always")
    text.write_ndjson(folder / "rows.jsonl")
    wide.write_csv(folder / "wide.csv", datetime_format="%Y-%m-%dT%H:%M:%SZ")
    (folder / "packed.csv.gz").write_bytes(gzip.compress(text.write_csv().encode(), 1))
    (folder / "small").mkdir()
    for i, part in enumerate(text.iter_slices(rows // _SMALL_FILES)):
        part.write_csv(folder / "small" / f"{i:03}.csv")
    return sorted(path for path in folder.iterdir())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
