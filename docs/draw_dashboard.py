"""Take the picture of the dashboard in docs/images, of a stream of the example's weather with faults in it.

It needs chromium and chromedriver. Run: python -m docs.draw_dashboard FOLDER, with a folder for data and
outputs; what is in the folder already is used again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl

from forecaster import Forecaster, NetworkConfig, WindowConfig
from pipelines.examples.weather import weather
from tests.browser import browser

IMAGE = Path(__file__).parent / "images" / "dashboard.png"
DAY = 14


def october(day: int, hour: int) -> pl.Expr:
    """Return a time in October 2013."""
    return pl.datetime(2013, 10, day, hour, time_zone="UTC")


def write_rows(folder: Path) -> None:
    """Write the rows of the stream, with a spike, silent sensors and bad rows."""
    rows, at, name = weather(), pl.col("timestamp"), pl.col("series_id")
    spike = (name == "JFK.temp") & (at == october(DAY, 9))
    is_silent = ((name == "LGA.visib") & (at >= october(DAY - 1, 4))) | (
        (name == "EWR.wind_speed") & (at >= october(DAY + 1, 9))
    )
    stream = rows.filter(
        at >= pl.datetime(2013, 8, 1, time_zone="UTC"), at < october(DAY + 2, 0), ~is_silent
    ).with_columns(
        pl.when(spike).then(pl.col("value") + 45).otherwise(pl.col("value")).cast(pl.String),
        at.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    bad_values = stream.sample(60, seed=2).with_columns(value=pl.lit("n/a?"))
    bad_times = stream.sample(25, seed=3).with_columns(timestamp=pl.lit("yesterday"))
    repeated = stream.sample(150, seed=4)
    pl.concat([stream, bad_values, bad_times, repeated]).write_csv(folder / "stream.csv")


def statecast(folder: Path, *arguments: str) -> None:
    """Run a command in a folder to its end."""
    subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], cwd=folder, check=True)


def main(folder: Path) -> None:
    """Run a stream in a folder, and take the picture of its page."""
    if not (folder / "out").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder)
        # The experts learn while they run, so the picture needs no training.
        Forecaster.untrained(NetworkConfig(hidden=8), WindowConfig()).save(folder / "model")
        stream = ("stream", "stream.csv", "--speed", "0", "-m", "./model", "--shards", "2", "-o", "out")
        statecast(folder, *stream, "--runner", "in-process")
    command = [sys.executable, "-m", "pipelines.cli", "dashboard", "out", "--port", "0", "--json"]
    with (
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server,
        browser(folder / "profile") as page,
    ):
        assert server.stdout is not None
        try:
            page.emulate(1440, 1180)
            page.open(f"{json.loads(server.stdout.readline())['url']}/#JFK.temp")
            page.wait_for("JFK.temp", "Series with the most alarms")
            page.picture(IMAGE)
        finally:
            server.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
