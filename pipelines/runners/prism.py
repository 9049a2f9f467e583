"""Run Prism, Beam's streaming engine for one machine, as a process of one job.

Prism is a Go program with the same version as Beam, and keeps its state in memory. It listens on every
network interface, and has no option to restrict this. So each job starts its own Prism on a free port, and
ends it with the job.

``python -m pipelines.runners.prism setup`` finds or installs Prism.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import grpc

from pipelines.runners.engine import EngineProcess
from pipelines.runners.prism_binary import beam_version, fetch_release, find_prism, setup_prism
from schemas.errors import EngineError, EngineLost

MISSING: Final = (
    "Prism, the streaming engine, is not installed: run `statecast doctor --fix`, "
    "or name a binary in STATECAST_PRISM"
)
# Prism's message about a dead worker contains this text.
_WORKER_DISCONNECTED: Final = "SDK worker disconnected"


class PrismServer(EngineProcess):
    """A context manager that runs a Prism process (see `EngineProcess`).

    Prism keeps all state in memory, so a pipeline fails when Prism or one of its workers dies. The ``with``
    block then raises `EngineLost` in place of Beam's error.

    Args:
        log: file for Prism's warnings and errors; its folder is created.

    Raises:
        EngineError: on entry, if Prism is missing or does not start.
        EngineLost: on exit, if Prism or a worker has died.
    """

    def __init__(self, log: Path) -> None:
        super().__init__("Prism", log)

    def command(self, port: int) -> Sequence[str]:
        """Return the command that starts Prism on ``port`` and logs only warnings and errors."""
        binary = find_prism()
        if binary is None:
            raise EngineError(MISSING)
        return [
            str(binary),
            f"--job_port={port}",
            "--serve_http=false",
            "--log_kind=text",
            "--log_level=warn",
        ]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lost = self.loss_behind(error)
        super().__exit__(kind, error, trace)
        if lost is not None:
            raise lost from None

    def loss_behind(self, error: BaseException | None) -> EngineLost | None:
        """Return `EngineLost` if Beam raised ``error`` because Prism or a worker has died; else None."""
        if not isinstance(error, (RuntimeError, grpc.RpcError)):
            return None
        if self.pid is None:
            return EngineLost(f"Prism was killed or ran out of memory (log: {self.log})")
        if _WORKER_DISCONNECTED in str(error):
            return EngineLost("a worker has died, and Prism cannot replace it: run the pipeline again")
        return None


def prism_options(endpoint: str, *, streaming: bool = True) -> list[str]:
    """Return Beam's pipeline options to run on the Prism at ``endpoint``, with the workers in this process.

    Args:
        endpoint: ``PrismServer.endpoint``.
        streaming: False for a pipeline whose sources are bounded.
    """
    options = [
        "--runner=PrismRunner",
        f"--job_endpoint={endpoint}",
        "--environment_type=LOOPBACK",
        # This option prevents Prism from splitting a slow bundle in the middle of a key.
        # Two bundles of one key at the same time would lose or double rows (tests/laws/test_prism_stress.py).
        "--experiments=prism_disable_sdf_split",
        # Beam's state cache (--max_cache_memory_usage_mb) stays off: on Prism it would only cost time.
        # Prism issues no cache tokens, so a bundle cannot use cached values of an earlier bundle.
        # To fill the cache, Beam would take 1 to 2 ms to measure the size of each value.
    ]
    return [*options, "--streaming"] if streaming else options


def main(arguments: list[str]) -> int:
    """Run ``setup`` to find or install Prism, or ``fetch FOLDER`` to only download Prism.

    ``setup`` runs ``fetch`` as a separate process, so that ``setup`` can end a download that takes too long.
    """
    match arguments:
        case ["setup"]:
            try:
                print(f"Prism {beam_version()}: {setup_prism()}")
            except EngineError as error:
                print(f"error: {error}", file=sys.stderr)
                return error.exit_code
            except KeyboardInterrupt:
                print("interrupted: nothing was installed", file=sys.stderr)
                return 130
        case ["fetch", folder]:
            try:
                print(fetch_release(folder))
            except (OSError, RuntimeError, ValueError) as error:
                print(error)
                return 1
        case _:
            print("usage: python -m pipelines.runners.prism setup", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
