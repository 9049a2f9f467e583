"""``python -m tests.lifecycle``: train, stream, promote, refuse and roll back versions of one model.

Model A is trained on a history, and a stream starts with A. Then the data change. Model B is A retrained on
the newer rows, and the gate promotes B. Model C is trained on noise, and the gate refuses C. A rollback
returns to A. The stream follows the alias and runs all the time: it changes to B, refuses a model D that
does not fit, and changes back to A. Every window must be forecast. The program writes a page with the steps
and the figures; the last line of its output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forecaster.registry.registry import Registry
from tests.lifecycle import inputs
from tests.lifecycle.outcome import Outcome, Streamed, measure
from tests.lifecycle.page import write_page
from tests.lifecycle.processes import Desk, Stream

MODEL = "fleet"
_DAYS_BEFORE_RETRAINING, _DAYS_BETWEEN = 40, 5
_JOB = """
[network]
hidden = 16
layers = 1
horizon = {horizon}
[online]
experts = []
[training]
epochs = 9
[jobs]
shards = 2
[stream]
poll_s = 0.2
snapshot_every_s = 5
follow = "champion"
[gate]
times_slower = 3
[mlflow]
model = "{model}"
"""


@dataclass
class Life:
    """The steps, gate decisions and refused versions of one run of this program so far.

    Attributes:
        events: one sentence for each step, in order.
        gated: JSON of the gate's decision about B, and of its decision about C.
        refused: references of the versions that were refused, at the gate or by the stream.
    """

    events: list[str] = field(default_factory=list)
    gated: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Add an event, and print it."""
        print(line, flush=True)
        self.events.append(line)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lifecycle", description=__doc__)
    parser.add_argument("--page", type=Path, default=Path("build/lifecycle.html"), help="the page to write")
    parser.add_argument("--keep", type=Path, help="work in this folder and keep it")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="statecast-lifecycle-") as temporary:
        folder = chosen.keep or Path(temporary)
        life, outcome = run(folder)
        write_page(chosen.page, life.events, life.gated, outcome, folder)
    print(f"page: {chosen.page}", flush=True)
    print(json.dumps(outcome.as_json()), flush=True)
    return 0 if outcome.is_good else 1


def run(folder: Path) -> tuple[Life, Outcome]:
    """Run all steps in ``folder``; return the record of the steps, and the measured figures."""
    history, noise = inputs.write_history(folder)
    (folder / "job.toml").write_text(_JOB.format(horizon=inputs.HORIZON, model=MODEL))
    desk, life = Desk(folder), Life()
    desk.run("train", str(history), "--save-state", "warm", "--name", "A")
    life.add(f"A was trained on {inputs.HISTORY_DAYS} days and is the champion: {MODEL}/1.")
    stream = desk.stream("--model", MODEL, "--state", "warm", "--runner", "in-process")
    try:
        stream.wait_for_days(_DAYS_BEFORE_RETRAINING)
        life.add("A stream runs with A; the data have changed since the history.")
        before = stream.latency()
        _retrain(desk, life)
        stream.wait_for_version(life.gated[0]["comparison"]["challenger"])
        life.add("The running stream has changed to B.")
        stream.wait_for_days(_DAYS_BETWEEN)
        during = stream.latency()
        _refuse(desk, life, noise)
        _break(desk, life, history, stream)
        _roll_back(desk, life, stream)
        stream.wait_for_days(_DAYS_BETWEEN)
        ended = stream.stop()
    finally:
        stream.kill()
    registry = Registry(f"sqlite:///{folder}/mlflow.db", unsent=folder / "unsent")
    versions = [f"{MODEL}/{move.after}" for move in registry.aliases.moves(MODEL, "champion")]
    streamed = Streamed(folder / "live", stream.days, ended, before, during)
    desk.run("backfill", str(history), "incoming", "--model", f"{MODEL}/2", "--output", "always")
    return life, measure(streamed, versions, life.refused, folder / "always")


def _retrain(desk: Desk, life: Life) -> None:
    """Retrain model A on the newer rows; the gate must promote the new version B."""
    retrained = desk.run("retrain", MODEL, "incoming", "--gate")
    life.gated.append(retrained["gate"])
    life.add(f"B was retrained from A on newer rows: {retrained['version']}.")
    if not retrained["gate"]["promoted"]:
        raise SystemExit(f"the gate refused model B: {retrained['gate']['reason']}")
    life.add("The gate let B in, and the champion is B.")


def _refuse(desk: Desk, life: Life, noise: Path) -> None:
    """Train model C on noise; ``promote --if-better`` must refuse it at the gate, with exit code 7."""
    trained = desk.run("train", str(noise), "--name", "C", "--epochs", "1")
    number = trained["version"]["number"]
    refused = desk.run("promote", f"{MODEL}/{number}", "incoming", "--if-better", code=7)
    life.gated.append(refused)
    life.refused.append(f"{MODEL}/{number}")
    life.add(f"C was trained on noise and refused at the gate: {refused['reason']}.")


def _break(desk: Desk, life: Life, history: Path, stream: Stream) -> None:
    """Train model D with another horizon and promote it without the gate; then roll back to model B.

    The stream must refuse model D.
    """
    trained = desk.run("train", str(history), "--name", "D", "--epochs", "1", "--horizon", "2")
    version = f"{MODEL}/{trained['version']['number']}"
    desk.run("promote", version, "--why", "a mistake")
    stream.wait_for_refusal(version)
    life.refused.append(version)
    life.add("D has another horizon and was promoted by mistake; the stream refused it and kept B.")
    desk.run("rollback", MODEL, "--why", "the stream refused D")
    life.add("A rollback returned to B.")


def _roll_back(desk: Desk, life: Life, stream: Stream) -> None:
    """Roll the alias ``champion`` back to model A, and wait until every shard has changed to A."""
    moved = desk.run("rollback", MODEL, "--why", "the last step of the life")
    life.add(f"A rollback returned to A, {moved['version']}.")
    stream.wait_for_version(moved["model_version"])
    life.add("The running stream has changed back to A.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
