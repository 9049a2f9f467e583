"""``python -m tests.chaos.upgrade 2.76.0``: upgrade and downgrade Beam between the runs of a stream.

The script makes a second environment from requirements.lock with another version of Beam, and fetches or
builds Prism of that version, which takes minutes the first time. A stream of a watched folder on Prism is
stopped and resumed several times, alternately with the two versions, and gets more files for each run. Its
outputs must equal the outputs of one uninterrupted run. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tests.chaos import inputs
from tests.chaos.restarted_stream import ROOT, Stream
from tests.chaos.verdict import compare

_RUNS = 5  # the stream is stopped five times; its runs use the two versions of Beam in turn
# Each run is stopped after 40 s. A shorter run could end before its first forecasts, because forecasts were
# half a minute late on Prism 2.76.0.
_RUN_S = 40.0


def main(arguments: list[str]) -> int:
    """Run the test; return 1 if a forecast, a row or a count differs from the uninterrupted run."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.upgrade", description=__doc__)
    parser.add_argument("beam", help="the other version of Beam")
    parser.add_argument("--uv", default="uv", help="the uv program that makes the environment")
    chosen = parser.parse_args(arguments)
    ours = version("apache-beam")
    with tempfile.TemporaryDirectory(prefix="statecast-upgrade-") as name:
        folder = Path(name)
        print(f"making an environment with Beam {chosen.beam} ...", flush=True)
        other = environment(chosen.uv, folder / "venv", chosen.beam)
        files = inputs.write_flights(folder / "files", np.random.default_rng(1), days=60)
        model = inputs.write_model(folder / "model", "sum", "zero")
        clean = Stream.of_flights(folder / "in-clean", model, folder / "clean")
        for file in files:
            inputs.put(file, folder / "in-clean")
        print("the uninterrupted run ...", flush=True)
        clean.run_until_quiet(0)
        rows = [0]
        for run, part in enumerate(np.array_split(np.arange(len(files)), _RUNS)):
            beam, python = ((chosen.beam, other), (ours, sys.executable))[run % 2]
            stream = Stream.of_flights(folder / "in", model, folder / "upgraded", python)
            for place in part:
                inputs.put(files[place], folder / "in")
            stream.run(_after(_RUN_S))
            rows.append(stream.rows_in())
            assert rows[-1] > rows[-2], "a run without progress tests nothing"
            print(f"  stopped under Beam {beam} after {rows[-1]:,} rows", flush=True)
        Stream.of_flights(folder / "in", model, folder / "upgraded").run_until_quiet(clean.rows_in())
        verdict = compare(folder / "upgraded", folder / "clean")
    print(f"{'holds' if verdict.holds else 'FAILS'}: {verdict}")
    found = {"beam": [chosen.beam, ours], "stopped_after_rows": rows[1:]}
    print(json.dumps({**found, "lost": verdict.lost, "doubled": verdict.doubled, "holds": verdict.holds}))
    return int(not verdict.holds)


def environment(uv: str, folder: Path, beam: str) -> str:
    """Make a virtual environment from requirements.lock, but with the version ``beam`` of Beam and Prism.

    Returns:
        The path of the Python in this environment.
    """
    pins = re.findall(r"^[a-z0-9._-]+==[^\\\n]+", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    pins = [f"apache-beam=={beam}" if pin.startswith("apache-beam==") else pin.strip() for pin in pins]
    (folder.parent / "requirements.txt").write_text("\n".join(pins))
    python = str(folder / "bin" / "python")
    install = [uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--no-build-isolation"]
    setuptools = next(pin for pin in pins if pin.startswith("setuptools=="))
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [*install, setuptools],
        [*install, "--requirements", str(folder.parent / "requirements.txt")],
        [*install, "--editable", str(ROOT)],
        [python, "-m", "pipelines.runners.prism", "setup"],
    ):
        if subprocess.run(command, cwd=ROOT).returncode:
            raise SystemExit(f"the command failed: {' '.join(command)}")
    return python


def _after(seconds: float) -> Callable[[], bool]:
    until_s = time.monotonic() + seconds
    return lambda: time.monotonic() > until_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
