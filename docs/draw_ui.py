"""Take the pictures of MLflow's pages in docs/images, from the store of the demo.

It needs chromium and chromedriver. Run: statecast demo && python -m docs.draw_ui sqlite:///demo-out/mlflow.db
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.browser import browser

IMAGES = Path(__file__).parent / "images"
PORT = 5123


def main(uri: str) -> None:
    """Serve a store, and take a picture of the runs, the charts and a version."""
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "ui",
        "--port",
        str(PORT),
        "--tracking-uri",
        uri,
        "--json",
    ]
    with (
        tempfile.TemporaryDirectory() as profile,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ui,
        browser(Path(profile)) as page,
    ):
        assert ui.stdout is not None
        url = json.loads(ui.stdout.readline())["url"]
        try:
            page.open(url)
            page.wait_for("lstm", "gru", "rnn", "weather.parquet")
            page.picture(IMAGES / "ui-runs.png")
            page.open(f"{url}&compareRunsMode=CHART")
            page.wait_for("lstm (backtest/mase_by_horizon)", "lstm (backtest/mase_by_horizon_persistence)")
            page.picture(IMAGES / "ui-charts.png")
            page.open(f"{url.partition('/#/')[0]}/#/models/weather/versions/1")
            page.wait_for("against persistence")
            page.picture(IMAGES / "ui-version.png")
        finally:
            ui.terminate()


if __name__ == "__main__":
    main(sys.argv[1])
